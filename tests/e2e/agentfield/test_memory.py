"""Memory on AgentField's SDK: its scopes, its vectors, and what it is told of changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.agentfield.conftest import StartAgent
from tests.e2e.processes import Node, Plane, until

KINDS = (Path(__file__).parent / "kinds_agent.py").read_text()
SOON_SECONDS = 10.0


@pytest.fixture(scope="module", autouse=True)
def kinds(agent: StartAgent) -> Node:
    """The agent whose reasoners these tests call."""
    return agent(KINDS, name="kinds")


def run(plane: Plane, reasoner: str, **input_: Any) -> Any:
    """The result of an execution of it."""
    ended = plane.end_of(plane.submit(f"kinds.{reasoner}", **input_), within=SOON_SECONDS)
    assert ended["status"] == "succeeded", ended["error"]
    return ended["result"]


def test_each_scope_keeps_its_own(plane: Plane) -> None:
    """Run, session, actor and everybody each have a value; without a scope the nearest is read."""
    seen = run(plane, "scopes", value=1)

    assert {name: seen[name] for name in ("workflow", "session", "actor", "global")} == {
        "workflow": "workflow 1",
        "session": "session 1",
        "actor": "actor 1",
        "global": "global 1",
    }
    assert (seen["farthest"], seen["nearest"]) == ("global 1", "run 1")
    assert (seen["keys"], seen["exists"]) == (["where"], False)


@pytest.mark.parametrize("value", [{"a": [1, None]}, [], "text", 0, None, 2**70], ids=repr)
def test_what_is_kept_is_read_and_forgotten(plane: Plane, value: Any) -> None:
    """Any JSON is stored as it is, and is not there any more when it was deleted."""
    assert run(plane, "keep", value=value) == [value, True, False, "gone"]


def test_deleting_what_is_not_there_raises(plane: Plane) -> None:
    """The SDK raises for the 404 that a missing key is answered with."""
    assert "404" in run(plane, "forget_nothing")


def test_vectors_are_found_by_nearness(plane: Plane) -> None:
    """The nearest come first, filters hold, and what was deleted is not found."""
    assert run(plane, "vectors") == {
        "near": ["north", "north-east"],
        "axes": ["east", "north"],
        "left": ["north-east", "east"],
    }


def test_changes_are_told(plane: Plane) -> None:
    """`on_change` hears every change of the keys it asked for, in order, with what was there before."""
    run(plane, "listen")
    run(plane, "change", values=[1, 2])
    told = until("three changes", lambda: _three(run(plane, "what_changed")), seconds=SOON_SECONDS)

    assert [(one["key"], one["action"], one["data"], one["previous"]) for one in told] == [
        ("watched.number", "set", 1, None),
        ("watched.number", "set", 2, 1),
        ("watched.number", "delete", None, 2),
    ]


def _three(told: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    return told if len(told) == 3 else None
