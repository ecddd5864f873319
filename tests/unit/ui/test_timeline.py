"""The timeline: bars where things were, in the order of their beginnings."""

from __future__ import annotations

from typing import Any

from controlplane.ui.timeline import timeline

AT = "2030-01-01T00:00:{:06.3f}Z"
IT = {"created_at": AT.format(0), "execution_id": "exec_a"}


def attempt(n: int, begin: float, end: float | None, ended: str = "retried") -> dict[str, Any]:
    shape = {"attempt": n, "started_at": AT.format(begin), "ended": ended, "node_id": "n"}
    return shape if end is None else shape | {"ended_at": AT.format(end)}


def test_waits_lie_between_attempts() -> None:
    """Before the first, and from the end of one to the beginning of the next."""
    bars, whole = timeline(IT, [attempt(1, 1, 2), attempt(2, 6, 10, "succeeded")], [], [], AT.format(10))

    assert whole == 10_000
    assert [(bar.label, bar.left, bar.width) for bar in bars] == [
        ("queued", 0, 10),
        ("attempt 1", 10, 10),
        ("queued", 20, 40),
        ("attempt 2", 60, 40),
    ]


def test_what_goes_on_ends_now() -> None:
    """And says that it is open."""
    [_, bar] = timeline(IT, [attempt(1, 5, None, "running")], [], [], AT.format(10))[0]

    assert (bar.left, bar.width, bar.open) == (50, 50, True)


def test_what_was_short_can_be_seen() -> None:
    """A bar has a width, also at the very end."""
    child = {"target": "n.c", "status": "succeeded", "execution_id": "exec_c"}
    child |= {"created_at": AT.format(10), "completed_at": AT.format(10)}
    bars, _ = timeline(IT | {"completed_at": AT.format(10)}, [attempt(1, 0.1, 10, "succeeded")], [], [child], "")

    assert all(bar.width > 0 and bar.left + bar.width <= 100 for bar in bars)


def test_steps_and_children_are_in_it() -> None:
    """By the moment that they began at."""
    step = {"name": "fetch", "kind": "step", "status": "done", "created_at": AT.format(3), "done_at": AT.format(4)}
    child = {"target": "n.c", "status": "running", "execution_id": "exec_c", "created_at": AT.format(2)}
    bars, _ = timeline(IT, [attempt(1, 1, None, "running")], [step], [child], AT.format(5))

    assert [bar.label for bar in bars] == ["queued", "attempt 1", "n.c", "fetch"]
