"""`app.call` on AgentField's SDK: children in the same process, in another, and where there is room for one only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.agentfield.conftest import StartAgent, start_agent
from tests.e2e.conftest import NewDatabase
from tests.e2e.processes import Node, Plane, Stage

KINDS = (Path(__file__).parent / "kinds_agent.py").read_text()
OTHER = KINDS.replace('node_id="kinds"', 'node_id="other"')
CHILDREN = 10
SOON_SECONDS = 30.0


@pytest.fixture(scope="module", autouse=True)
def nodes(agent: StartAgent) -> list[Node]:
    """Two agents that serve the same reasoners under two names."""
    return [agent(KINDS, name="kinds"), agent(OTHER, name="other")]


@pytest.mark.parametrize("target", ["kinds.child", "other.child"])
@pytest.mark.parametrize("reasoner", ["one_by_one", "all_at_once"])
def test_a_parent_and_its_children(plane: Plane, reasoner: str, target: str) -> None:
    """Ten children, one after the other or together, here or there: each runs once, in the parent's run."""
    id_ = plane.submit(f"kinds.{reasoner}", target=target, count=CHILDREN)
    ended = plane.end_of(id_, within=SOON_SECONDS)
    children = children_of(plane, ended)

    assert (ended["status"], ended["attempt"]) == ("succeeded", 1)
    assert ended["result"] == [2 * n for n in range(CHILDREN)]
    assert [(child["status"], child["target"], child["attempt"]) for child in children] == [
        ("succeeded", target, 1)
    ] * CHILDREN
    assert {child["parent_execution_id"] for child in children} == {id_}


def test_two_runs_at_once_do_not_mix(plane: Plane) -> None:
    """Two runs in one process that name their own scope read what they wrote."""
    names = ("left", "right")
    ids = [plane.submit("kinds.mine", name=name, rounds=30) for name in names]
    results = [plane.end_of(id_, within=SOON_SECONDS)["result"] for id_ in ids]

    assert results == [[f"{name} {n}" for n in range(30)] for name in names]


def test_a_parent_waits_where_there_is_room_for_one(tmp_path: Path, sdk: Path, new_database: NewDatabase) -> None:
    """With one slot per process a parent still gets its children's answers: who waits for a child makes room for it."""
    with Stage(tmp_path) as stage:
        plane = stage.plane(new_database(), CONTROLPLANE_PUSH_SLOTS="1")
        start_agent(stage, plane, sdk, KINDS, name="kinds")
        id_ = plane.submit("kinds.all_at_once", target="kinds.child", count=3)

        assert plane.end_of(id_, within=SOON_SECONDS)["result"] == [0, 2, 4]


def children_of(plane: Plane, parent: dict[str, Any]) -> list[dict[str, Any]]:
    """The other executions of its run."""
    items = plane.api.get("/executions", params={"run_id": parent["run_id"], "limit": 100}).json()["items"]
    return [one for one in items if one["execution_id"] != parent["execution_id"]]
