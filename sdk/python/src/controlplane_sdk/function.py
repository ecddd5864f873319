"""A function that a node serves: how it is called, and how it is announced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

from controlplane_sdk.schema import Signature
from controlplane_sdk.triggers import Cron, Webhook

ParentEnd = Literal["cancel", "keep"]
"""What becomes of a child whose parent has ended without a result."""

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class Served(Protocol[P, R_co]):
    """A function that a node serves: itself when it is called, and many executions of it with `map`."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    async def map(
        self, items: Iterable[Any], *, at_once: int | None = None, return_exceptions: bool = False
    ) -> list[Any]:
        """As `Agent.map` of this function; an item may be the value of its only argument."""


class Serve(Protocol):
    """A decorator that makes a function served."""

    def __call__(self, function: Callable[P, R], /) -> Served[P, R]: ...


@dataclass(frozen=True, kw_only=True)
class Function:
    """One reasoner or skill."""

    name: str
    kind: Literal["reasoner", "skill"]
    call: Callable[..., Any]
    description: str | None
    tags: Sequence[str]
    retries: int
    retry_delay: float
    retry_factor: float
    retry_cap: float
    retry_jitter: float
    fatal_errors: Sequence[str]
    retry_errors: Sequence[str]
    timeout: float | None
    schedule_to_start: float | None
    total: float | None
    heartbeat: float | None
    on_parent_end: ParentEnd | None
    concurrency: int | None = None
    concurrency_key: str | None = None
    triggers: Sequence[Webhook | Cron] = ()

    @cached_property
    def signature(self) -> Signature:
        """Read when it is first needed: by then every name in the annotations exists."""
        return Signature(self.call)

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(inspect.unwrap(self.call)) or inspect.iscoroutinefunction(self.call)

    def announcement(self) -> dict[str, Any]:
        """What registration says of it. Raises: TypeError when the signature cannot be served."""
        said = {
            "id": self.name,
            "description": self.description or inspect.getdoc(self.call),
            "tags": list(self.tags),
            "input_schema": self.signature.input_schema(),
            "output_schema": self.signature.output_schema(),
            "retries": self.retries,
            "retry_delay_seconds": self.retry_delay,
            "retry_factor": self.retry_factor,
            "retry_cap_seconds": self.retry_cap,
            "timeout_seconds": self.timeout,
            "schedule_to_start_seconds": self.schedule_to_start,
            "total_seconds": self.total,
            "heartbeat_seconds": self.heartbeat,
            "on_parent_end": self.on_parent_end,
            "concurrency": self.concurrency,
            "concurrency_key": self.concurrency_key,
            "retry": {
                "jitter": self.retry_jitter,
                "fatal_errors": list(self.fatal_errors),
                "retry_errors": list(self.retry_errors),
            },
        }
        return {name: value for name, value in said.items() if value is not None}


def names_of(errors: Sequence[type[BaseException] | str]) -> tuple[str, ...]:
    """Classes of errors by the names that failures are reported with."""
    return tuple(error if isinstance(error, str) else error.__name__ for error in errors)
