"""Reads `.env`."""

import io
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values
from pydantic_settings import DotEnvSettingsSource

from service.errors import ConfigError, FieldError


class DotEnv(DotEnvSettingsSource):
    """`.env` without variable expansion, so that a password may hold `${`."""

    def _read_env_file(self, file_path: Path) -> Mapping[str, str | None]:
        try:
            data = file_path.read_bytes()
            text = data.decode("utf-8-sig")
        except OSError as error:
            raise ConfigError([FieldError(str(file_path), f"cannot be read: {error.strerror}")]) from None
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ConfigError([FieldError(str(file_path), f"is not UTF-8 in line {line}; save it as UTF-8")]) from None
        found = dotenv_values(stream=io.StringIO(text), interpolate=False)
        return {name.lower(): value for name, value in found.items()}
