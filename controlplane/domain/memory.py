"""Memory: values that a run, a session, an actor or everybody shares, written as checkpoints.

A value is any JSON, kept as the bytes that came. A list can also grow by appending: the elements become rows of their
own, so a checkpoint costs what it adds, and `expected_length` makes a repeated append harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from controlplane.domain.lease import Fence

KEY_MAX = 512
SCOPE_ID_MAX = 512
# What is told with a change. More than this is for who wants it to read.
CHANGE_VALUE_BYTES_MAX = 65_536
CHANGE_PREVIOUS_BYTES_MAX = 2_048


class Scope(StrEnum):
    RUN = "run"
    SESSION = "session"
    ACTOR = "actor"
    GLOBAL = "global"


# AgentField says `workflow` where we say run.
WORKFLOW = "workflow"
SCOPE_WORDS = {WORKFLOW: Scope.RUN} | {scope.value: scope for scope in Scope}
SEARCH_ORDER = (Scope.RUN, Scope.SESSION, Scope.ACTOR, Scope.GLOBAL)
GLOBAL_ID = "global"


class Action(StrEnum):
    """How a key changed."""

    SET = "set"
    APPEND = "append"
    DELETE = "delete"


class Place(NamedTuple):
    """Where a value is kept."""

    bucket: int
    namespace: int
    scope: Scope
    scope_id: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Store this value. `length` is its number of elements when it is a list."""

    place: Place
    value: bytes
    length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Add these elements to the list; with `expected_length` only if it still has that length."""

    place: Place
    items: tuple[bytes, ...]
    expected_length: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Forget this key."""

    place: Place


Op = Put | Append | Remove


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One checkpoint: all of its operations or none. With a fence, only while that attempt holds its lease.

    `run_id`, `node_id` and `actor_key` are told with the changes: in whose name somebody says that they are made.
    """

    ops: tuple[Op, ...]
    fence: Fence | None = None
    writer: UUID | None = None
    run_id: str | None = None
    node_id: str | None = None
    actor_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What an operation left behind. `version` is 0 when the key is gone; `existed`: it was there before."""

    key: str
    version: int
    length: int | None
    existed: bool
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A stored value as it is read back."""

    scope: Scope
    scope_id: str
    key: str
    value: bytes
    length: int | None
    version: int
    created_at: datetime
    updated_at: datetime


def assemble(base: bytes, appended: Sequence[bytes]) -> bytes:
    """The whole list as JSON: the elements of `base` (a JSON array) followed by the appended ones."""
    if not appended:
        return base
    head = base.strip()[:-1].rstrip()
    return head + (b"" if head == b"[" else b",") + b",".join(appended) + b"]"


def appended_before(*, length: int, expected_length: int, items: int) -> bool:
    """Whether a list of this length may already hold the very elements that an append brings again.

    It may have grown since: a group appends twice to one key and is then sent again.
    """
    return items > 0 and length >= expected_length + items


def matches(pattern: str, key: str) -> bool:
    """Whether a key is meant by a pattern, in which `*` stands for any text. In one pass, whatever the pattern."""
    head, *rest = pattern.split("*")
    if not rest:
        return key == pattern
    *middle, tail = rest
    if len(key) < len(head) + len(tail) or not (key.startswith(head) and key.endswith(tail)):
        return False
    at, end = len(head), len(key) - len(tail)
    for part in middle:
        found = key.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def like(pattern: str) -> str:
    """The same pattern as SQL's `like` reads it."""
    return pattern.translate({ord("\\"): r"\\", ord("%"): r"\%", ord("_"): r"\_", ord("*"): "%"})
