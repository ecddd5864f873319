"""The command line: stdout is data, stderr is talk, and a failure is one line that says what to do next.

`commands/` declares every command and its options; the module named like the command does the work, and is imported
only when it is called, so that `--help` is fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from controlplane.cli import output
from controlplane.cli.commands import app
from controlplane.cli.failure import ExitCode, Failure
from controlplane.errors import ControlPlaneError, Unavailable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and answer with its exit code; only a bug shows a traceback, and only when asked for one."""
    try:
        code = app(args=arguments, prog_name="controlplane", standalone_mode=False)
        sys.stdout.flush()
    except Failure as failure:
        output.complain(str(failure))
        return failure.code
    except ControlPlaneError as error:
        output.complain(error.detail)
        return ExitCode.UNREACHABLE if isinstance(error, Unavailable) else ExitCode.INTERNAL
    except typer.TyperException as error:
        output.complain(_usage(error))
        return ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return output.reader_left()
    except Exception as error:
        if os.environ.get("CONTROLPLANE_TRACEBACK"):
            raise
        output.complain(
            f"This is a bug: {type(error).__name__}: {error}. CONTROLPLANE_TRACEBACK=1 shows where; please report it."
        )
        return ExitCode.INTERNAL
    return code if isinstance(code, int) else ExitCode.OK


def _usage(error: typer.TyperException) -> str:
    context: typer.Context | None = getattr(error, "ctx", None)
    command = "controlplane" if context is None else context.command_path
    said = " ".join(error.format_message().split())
    return f"{said.rstrip('.')}. {command} --help shows what there is."
