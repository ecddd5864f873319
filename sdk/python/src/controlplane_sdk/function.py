"""A function that a node serves: how it is called, and how it is announced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from controlplane_sdk.schema import Signature


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
    concurrency: int | None = None
    concurrency_key: str | None = None

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
