"""Caps: how much of each thing one namespace may have, so that no namespace takes the room of the others.

What is said of a namespace goes before what the settings say of all. None is any number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from controlplane.errors import CapReached, NamespaceFull

MOST = 10**15
"""The largest number that a cap may be."""
CHILDREN_FACTOR = 2
"""So many times its cap of executions may a namespace have by the children of what runs, which could else not end."""


class Cap(StrEnum):
    """What is counted."""

    EXECUTIONS = "executions"
    STORED_BYTES = "stored_bytes"
    SCHEDULES = "schedules"
    TRIGGERS = "triggers"
    KEYS = "keys"
    NODES = "nodes"
    SESSIONS_PER_NODE = "sessions_per_node"
    MEMORY_KEYS = "memory_keys"
    MEMORY_BYTES = "memory_bytes"


WHAT: Mapping[Cap, str] = {
    Cap.EXECUTIONS: "unfinished executions",
    Cap.STORED_BYTES: "bytes of stored inputs, contexts and results",
    Cap.SCHEDULES: "schedules",
    Cap.TRIGGERS: "triggers",
    Cap.KEYS: "API keys that are neither revoked nor expired",
    Cap.NODES: "nodes",
    Cap.SESSIONS_PER_NODE: "live processes of this node",
    Cap.MEMORY_KEYS: "keys in memory",
    Cap.MEMORY_BYTES: "bytes in memory",
}
HOW: Mapping[Cap, str] = {
    Cap.EXECUTIONS: "Wait until some have ended and send it again, or cancel some (controlplane bulk cancel).",
    Cap.STORED_BYTES: "Keep what has ended for a shorter time (CONTROLPLANE_KEEP_…_DAYS); it is counted now and then.",
    Cap.SCHEDULES: "Delete schedules that nobody needs.",
    Cap.TRIGGERS: "Delete triggers that nobody needs.",
    Cap.KEYS: "Revoke those that nobody uses.",
    Cap.NODES: "Register under names that are there already.",
    Cap.SESSIONS_PER_NODE: "Stop some of its processes, or give each more slots.",
    Cap.MEMORY_KEYS: "Delete what nobody reads; what was deleted counts for up to a minute more.",
    Cap.MEMORY_BYTES: "Delete what nobody reads; what was deleted counts for up to a minute more.",
}
RAISE = "An admin of the namespace default may raise it: PUT /api/v1/namespaces/{name}/caps."
PASSING = frozenset({Cap.EXECUTIONS, Cap.SESSIONS_PER_NODE})
"""Those under which room comes by itself: whoever sends the same again later may well be let in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """How many of this a namespace may have, and in which buckets they lie."""

    cap: Cap
    most: int | None
    buckets: tuple[int, ...]


def reached(cap: Cap, *, most: int, present: int) -> CapReached | NamespaceFull:
    """Why there is no room for one more."""
    kind = NamespaceFull if cap in PASSING else CapReached
    return kind(
        f"The namespace may have {most:,} {WHAT[cap]}, and has {present:,}.",
        fix=f"{HOW[cap]} {RAISE}",
        cap=cap.value,
        most=most,
        present=present,
    )
