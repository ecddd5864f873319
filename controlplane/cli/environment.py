"""The settings of a command: the environment's, with what the command line says before it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from controlplane.cli.failure import ExitCode, Failure
from controlplane.settings import Settings

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def settings_with(**given: Any) -> Settings:
    """The settings of the environment, with what the command line says before it."""
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"][:1])
        variable = name if name == "DATABASE_URL" else f"CONTROLPLANE_{name.upper()}"
        raise Failure(f"{variable}: {first['msg']}.", fix="Correct or unset it.", code=ExitCode.USAGE) from None
    except SettingsError as error:
        raise Failure(f"A setting cannot be read: {error}.", fix="It must be JSON.", code=ExitCode.USAGE) from None
    if settings.log_level.upper() not in LEVELS:
        raise Failure(
            f"CONTROLPLANE_LOG_LEVEL: {settings.log_level!r} is not one of {', '.join(LEVELS)}.", code=ExitCode.USAGE
        )
    return settings
