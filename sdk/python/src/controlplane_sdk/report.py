"""The last word on an attempt, as it travels."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from controlplane_sdk import strict_json
from controlplane_sdk.context import Fence
from controlplane_sdk.errors import ControlPlaneError, ExecutionError, Fatal, ResultInvalid
from controlplane_sdk.retry_after import retry_after_seconds
from controlplane_sdk.trace import sendable

ERROR_CHARACTERS = 8_000
TRACEBACK_CHARACTERS = 32_000
_HERE = str(Path(__file__).parent)


class Report(NamedTuple):
    """What became of an attempt, ready to be sent."""

    fence: Fence
    status: str
    body: bytes


def succeeded(fence: Fence, result: bytes, duration_ms: int) -> Report:
    """The reasoner returned; `result` is JSON already."""
    head = strict_json.encode(_head(fence, "succeeded") | {"duration_ms": duration_ms})
    return Report(fence, "succeeded", head[:-1] + b',"result":%b}' % result)


def failed(fence: Fence, error: BaseException, duration_ms: int) -> Report:
    """The reasoner raised. `Fatal` is not tried again; `Retryable`, or the error of a service, may say when."""
    said: dict[str, Any] = {
        "error": strict_json.printable(_words(error), ERROR_CHARACTERS),
        "error_class": strict_json.printable(type(error).__name__, 200),
        "traceback": strict_json.printable(_traceback(error), TRACEBACK_CHARACTERS),
        "retryable": not isinstance(error, Fatal),
        "duration_ms": duration_ms,
    }
    if (details := _details(error)) is not None:
        said["error_details"] = details
    if (after := retry_after_seconds(error)) is not None:
        said["retry_after_seconds"] = after
    return Report(fence, "failed", strict_json.encode(_head(fence, "failed") | said))


def cancelled(fence: Fence, duration_ms: int) -> Report:
    """The reasoner stopped because it was asked to."""
    return Report(fence, "cancelled", strict_json.encode(_head(fence, "cancelled") | {"duration_ms": duration_ms}))


def released(fence: Fence) -> Report:
    """The attempt is handed back unfinished; it costs no retry."""
    return Report(fence, "released", strict_json.encode(_head(fence, "released")))


def waiting(fence: Fence, waits: Sequence[str], until: str) -> Report:
    """The attempt is over; its execution waits for these steps. It costs no retry."""
    said = {"waits": list(waits), "until": until}
    return Report(fence, "waiting", strict_json.encode(_head(fence, "waiting") | said))


def refused(fence: Fence, why: str) -> Report:
    """The control plane would not take the result."""
    return failed(fence, ResultInvalid(f"the control plane refused the result: {why}"), 0)


def _head(fence: Fence, status: str) -> dict[str, Any]:
    return {"execution_id": fence.execution_id, "attempt": fence.attempt, "status": status}


def _words(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - an error's own __str__ may be broken
        return type(error).__name__


def _details(error: BaseException) -> Any:
    if isinstance(error, ExecutionError):
        known = {"execution_id": error.execution_id, "status": error.status, "error_class": error.error_class}
        return sendable(known | {"details": error.details})
    found = getattr(error, "details", None) if isinstance(error, ControlPlaneError) else None
    return None if found is None else sendable({"details": found})["details"]


def _traceback(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
        trace = trace.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - as above
        return type(error).__name__
