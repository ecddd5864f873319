"""A pause: work of a reasoner, of a node or of everything is accepted, and waits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from controlplane.domain.row import Row

EVERYTHING = ""
"""The name of the pause of everything, and of the node that it is kept under."""


class PauseScope(StrEnum):
    ALL = "all"
    NODE = "node"
    REASONER = "reasoner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """What is, or may be, paused: `name` is a target, a node's id, or EVERYTHING."""

    scope: PauseScope
    node_id: str
    name: str

    @classmethod
    def all(cls) -> Paused:
        return cls(scope=PauseScope.ALL, node_id=EVERYTHING, name=EVERYTHING)

    @classmethod
    def node(cls, node_id: str) -> Paused:
        return cls(scope=PauseScope.NODE, node_id=node_id, name=node_id)

    @classmethod
    def reasoner(cls, node_id: str, target: str) -> Paused:
        return cls(scope=PauseScope.REASONER, node_id=node_id, name=target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """Somebody has paused it: who, if that is known, since when, and why."""

    what: Paused
    paused_at: datetime
    paused_by: str | None = None
    reason: str | None = None

    @classmethod
    def from_row(cls, row: Row) -> Pause:
        return cls(
            what=Paused(scope=PauseScope(row["scope"]), node_id=row["node_id"], name=row["name"]),
            paused_at=row["paused_at"],
            paused_by=row["paused_by"],
            reason=row["reason"],
        )


def unpaused(targets: Collection[str], node_id: str, names: Collection[str]) -> tuple[str, ...]:
    """Those targets of this node that none of these pauses, told by their names, holds back."""
    if EVERYTHING in names or node_id in names:
        return ()
    return tuple(target for target in targets if target not in names)
