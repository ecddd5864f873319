"""Everything this package raises, in one tree.

ControlPlaneError
├── ServerError              the control plane did not do what was asked
│   ├── ServerUnreachable    no answer: refused, cut off, too slow; worth trying again
│   ├── ServerUnavailable    an answer that says "not now" (5xx, 429); worth trying again
│   └── RequestRefused       an answer that says "not like this" (4xx); `code` is a stable slug
│       ├── Unauthorized  NotFound  AlreadyFinished  MemoryConflict
├── LeaseLost                this attempt is no longer ours; stop working on it
├── ExecutionError           an execution that was waited for did not succeed
│   ├── ExecutionFailed  ExecutionCancelled  ExecutionTimeout
├── Retryable                raise it in a reasoner: failed for now, try again
├── Fatal                    raise it in a reasoner: failed for good, do not try again
│   ├── InvalidInput         the arguments do not fit the reasoner's signature
│   ├── ResultInvalid        the returned value cannot be written as JSON
│   └── StepChanged          a step was something else when an earlier attempt ran: the code has changed meanwhile
├── EventTimedOut            the event that was waited for did not come in time (also a TimeoutError)
├── NotJson                  a value cannot be written as strict JSON (also a ValueError)
├── ScopeMissing             memory was used outside an execution without naming a scope (also a ValueError)
└── AIUnavailable            `app.ai` has no model behind it, or the model did not answer as asked
"""

from __future__ import annotations

from typing import Any


class ControlPlaneError(Exception):
    """Something went wrong between this program and the control plane."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class ServerError(ControlPlaneError):
    """The control plane did not do what was asked."""


class ServerUnreachable(ServerError):
    """The control plane does not answer."""


class ServerUnavailable(ServerError):
    """The control plane cannot do this right now."""

    def __init__(
        self, message: str | None = None, *, status: int = 503, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class RequestRefused(ServerError):
    """The control plane refused the request."""

    def __init__(
        self,
        message: str | None = None,
        *,
        status: int = 400,
        code: str = "refused",
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.facts = facts or {}


class Unauthorized(RequestRefused):
    """A valid API key is needed."""


class NotFound(RequestRefused):
    """There is no such thing."""


class AlreadyFinished(RequestRefused):
    """The execution has already finished."""


class MemoryConflict(RequestRefused):
    """The stored value is not what this write expected."""


class LeaseLost(ControlPlaneError):
    """This attempt no longer holds the lease; nothing was changed. Stop working on it."""


class ExecutionError(ControlPlaneError):
    """An execution did not succeed."""

    def __init__(
        self,
        message: str | None = None,
        *,
        execution_id: str = "",
        status: str = "",
        error_class: str | None = None,
        attempts: int = 0,
        details: Any = None,
    ) -> None:
        super().__init__(message)
        self.execution_id = execution_id
        self.status = status
        self.error_class = error_class
        self.attempts = attempts
        self.details = details


class ExecutionFailed(ExecutionError):
    """The execution failed."""


class ExecutionCancelled(ExecutionError):
    """The execution was cancelled."""


class ExecutionTimeout(ExecutionError):
    """The execution ran out of its time."""


class Retryable(ControlPlaneError):
    """Failed for now; try again."""

    def __init__(self, message: str | None = None, *, after_seconds: float | None = None, details: Any = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds
        self.details = details

    @property
    def retry_after(self) -> float | None:
        """The same, by the name that other packages' errors use."""
        return self.after_seconds


class Fatal(ControlPlaneError):
    """Failed for good; trying again would not help."""

    def __init__(self, message: str | None = None, *, details: Any = None) -> None:
        super().__init__(message)
        self.details = details


class InvalidInput(Fatal):
    """The arguments do not fit the reasoner's signature."""


class ResultInvalid(Fatal):
    """The returned value cannot be written as JSON."""


class StepChanged(Fatal):
    """The step was something else when an earlier attempt ran: the code has changed under a running execution."""


class EventTimedOut(ControlPlaneError, TimeoutError):
    """The event did not come in time."""


class NotJson(ControlPlaneError, ValueError):
    """The value cannot be written as strict JSON."""


class ScopeMissing(ControlPlaneError, ValueError):
    """Outside an execution memory needs a scope: app.memory.run(id), .session(id), .actor(id) or .global_scope."""


class AIUnavailable(ControlPlaneError):
    """app.ai cannot answer."""
