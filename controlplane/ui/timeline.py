"""The timeline of one execution: what it did when, as bars between its beginning and its end, or now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

Json = Any
FOLLOWED = frozenset({"retried", "released", "expired", "suspended"})
"""How an attempt ends behind which another one is waited for."""
PERCENT_MIN = 0.4
"""So wide is a bar at least, that it can be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """`left` and `width` in per cent of all the time that is shown. `looks`: the status that its colour says."""

    kind: str
    label: str
    looks: str
    left: float
    width: float
    milliseconds: float
    says: str = ""
    anchor: str = ""
    open: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    kind: str
    label: str
    looks: str
    begin: datetime
    end: datetime | None
    says: str = ""
    anchor: str = ""


def timeline(
    execution: Mapping[str, Json],
    attempts: Iterable[Mapping[str, Json]],
    steps: Iterable[Mapping[str, Json]],
    children: Iterable[Mapping[str, Json]],
    now: str,
) -> tuple[list[Bar], float]:
    """The bars, the first to begin first, and how many milliseconds all of it covers."""
    spans = sorted(_spans(execution, attempts, steps, children), key=lambda one: one.begin)
    begin, end = _at(execution["created_at"]), _at(execution.get("completed_at") or now)
    assert begin is not None
    assert end is not None
    begin = min([begin, *(one.begin for one in spans)])
    end = max([end, *(one.end or end for one in spans)])
    whole = max((end - begin) / timedelta(milliseconds=1), 1.0)
    return [_bar(one, begin, end, whole) for one in spans], whole


def _spans(
    execution: Mapping[str, Json],
    attempts: Iterable[Mapping[str, Json]],
    steps: Iterable[Mapping[str, Json]],
    children: Iterable[Mapping[str, Json]],
) -> Iterable[Span]:
    waiting_since = _at(execution["created_at"])
    tries = sorted(attempts, key=lambda one: int(one["attempt"]))
    for one in tries:
        began = _at(one["started_at"])
        assert began is not None
        if waiting_since is not None and began > waiting_since:
            yield Span(kind="queue", label="queued", looks="queued", begin=waiting_since, end=began)
        waiting_since = _at(one.get("ended_at"))
        yield Span(
            kind="attempt",
            label=f"attempt {one['attempt']}",
            looks=str(one["ended"]),
            begin=began,
            end=waiting_since,
            says=f"{one['ended']} on {one.get('node_id') or 'a node'}",
            anchor=f"attempt-{one['attempt']}",
        )
    if waiting_since is not None and (not tries or tries[-1]["ended"] in FOLLOWED):
        over = _at(execution.get("completed_at"))
        yield Span(kind="queue", label="queued", looks="queued", begin=waiting_since, end=over)
    for step in steps:
        begun = _at(step.get("created_at") or step.get("done_at"))
        if begun is not None:
            yield Span(
                kind="step",
                label=str(step["name"]),
                looks="succeeded" if step["status"] == "done" else "waiting",
                begin=begun,
                end=_at(step.get("done_at")),
                says=f"{step['kind']}, {step['status']}",
            )
    for child in children:
        begun = _at(child["created_at"])
        assert begun is not None
        yield Span(
            kind="child",
            label=str(child["target"]),
            looks=str(child["status"]),
            begin=begun,
            end=_at(child.get("completed_at")),
            says=f"child, {child['status']}",
            anchor=str(child["execution_id"]),
        )


def _bar(one: Span, begin: datetime, end: datetime, whole: float) -> Bar:
    stop = one.end or end
    width = max(100 * ((stop - one.begin) / timedelta(milliseconds=1)) / whole, PERCENT_MIN)
    left = min(100 * ((one.begin - begin) / timedelta(milliseconds=1)) / whole, 100 - PERCENT_MIN)
    return Bar(
        kind=one.kind,
        label=one.label,
        looks=one.looks,
        left=round(left, 3),
        width=round(min(width, 100 - left), 3),
        milliseconds=(stop - one.begin) / timedelta(milliseconds=1),
        says=one.says,
        anchor=one.anchor,
        open=one.end is None,
    )


def _at(text: Json) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
