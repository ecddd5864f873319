"""Values that are made by the thousand: frozen for whoever writes code, plain for the machine that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

__all__ = ["value"]

Class = TypeVar("Class")

# A frozen dataclass sets each field of a new object with a call of its own, so that a Submission took three times as
# long to make. The type checker sees the frozen one, and refuses to assign to it as it does anywhere else.
if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: bool, slots: bool, kw_only: bool) -> Callable[[type[Class]], type[Class]]:
        """`dataclass`, whose objects are equal and hashed as frozen ones are."""
        return dataclasses.dataclass(slots=slots, kw_only=kw_only, unsafe_hash=frozen)
