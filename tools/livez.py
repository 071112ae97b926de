"""Exit 0 if the daemon in this container is alive: the image's health check, with the standard library alone.

Either listener will do, since a daemon may have been told to run only one of them.
"""

import os
import sys
import urllib.request

# No proxy, whatever the environment says: this does not leave the container.
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def is_alive(listen: str) -> bool:
    port = listen.rpartition(":")[2]
    try:
        with OPEN(f"http://127.0.0.1:{port}/livez", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main() -> None:
    listeners = (os.environ.get(f"ROLLCALL_{name}_LISTEN", "") for name in ("CALLBACK", "API"))
    if not any(map(is_alive, filter(None, listeners))):
        sys.exit("neither listener answers")


if __name__ == "__main__":
    main()
