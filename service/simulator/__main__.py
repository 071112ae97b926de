"""`python -m service.simulator`: run the simulator as a separate process."""

import argparse
import json
import os
from pathlib import Path

from service.simulator.loading import parse_config
from service.simulator.server import run


def main() -> None:
    options = _arguments().parse_args()
    config = parse_config(json.loads(_text(options.config)))
    run(
        config,
        host=options.host,
        port=options.port,
        speed=options.speed,
        on_ready=lambda port: _announce(port, options.port_file),
    )


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port")
    parser.add_argument("--port-file", type=Path, help="file that receives the port once the simulator listens")
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per real second")
    parser.add_argument("--config", default="{}", help="JSON, or the path of a JSON file")
    return parser


def _text(config: str) -> str:
    return config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8")


def _announce(port: int, port_file: Path | None) -> None:
    """Write the file atomically: a reader may be waiting for it to appear."""
    if port_file is None:
        return
    partial = port_file.with_name(f"{port_file.name}.{os.getpid()}")
    partial.write_text(str(port), encoding="utf-8")
    partial.replace(port_file)


if __name__ == "__main__":
    main()
