"""Kept: what keeps a node that is gone from being forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """`sessions`: open ones. `executions`: unfinished ones of its reasoners, or `executions_is_more` than so many.

    `schedules` and `triggers` that submit to it, by their names: only the first few, and `more` of them or not.
    Work is only looked for where nobody is connected: whoever is may have some at any moment.
    """

    sessions: int = 0
    executions: int = 0
    executions_is_more: bool = False
    schedules: Sequence[str] = ()
    triggers: Sequence[str] = ()
    more: bool = False

    def __bool__(self) -> bool:
        return bool(self.sessions or self.executions or self.schedules or self.triggers)

    @property
    def sentence(self) -> str:
        """All of it, in words."""
        most = f"more than {self.executions:,}" if self.executions_is_more else f"{self.executions:,}"
        parts = [
            _are(f"{self.sessions:,}", self.sessions, "process of it is connected", "processes of it are connected"),
            _are(most, self.executions, "execution of it has not ended", "executions of it have not ended"),
            _name(self.schedules, "schedule submits to it", "schedules submit to it"),
            _name(self.triggers, "trigger submits to it", "triggers submit to it"),
        ]
        return f"It cannot be forgotten: {'; '.join(filter(None, parts))}{' (and more)' if self.more else ''}."

    def fix(self, node_id: str) -> str:
        """The next step: what comes first is in the way first."""
        if self.sessions:
            return (
                "Stop its processes, best after a drain; one that died is taken for connected until its lease is over."
            )
        if self.executions:
            return (
                "Start the node, which ends them, or cancel them: "
                f"POST /api/v1/bulk with action cancel and the filter node_id {node_id}."
            )
        what = "schedules" if self.schedules else "triggers"
        name = [*self.schedules, *self.triggers, ""][0]
        return f"Let it submit to another target, or delete it: DELETE /api/v1/{what}/{name}."


def _are(shown: str, count: int, one: str, many: str) -> str:
    return f"{shown} {one if shown == '1' else many}" if count else ""


def _name(names: Sequence[str], one: str, many: str) -> str:
    if not names:
        return ""
    word, _, rest = (one if len(names) == 1 else many).partition(" ")
    return f"the {word} {', '.join(names)} {rest}"
