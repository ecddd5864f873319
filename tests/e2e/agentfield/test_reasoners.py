"""What a reasoner on AgentField's SDK may return, raise, say and ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.agentfield.conftest import StartAgent
from tests.e2e.processes import Node, Plane, until

KINDS = Path(__file__).parent / "kinds_agent.py"
SOON_SECONDS = 10.0


@pytest.fixture(scope="module", autouse=True)
def kinds(agent: StartAgent) -> Node:
    """The agent whose reasoners these tests call."""
    return agent(KINDS.read_text(), name="kinds")


def run(plane: Plane, reasoner: str, **input_: Any) -> dict[str, Any]:
    """How an execution of it ended."""
    return plane.end_of(plane.submit(f"kinds.{reasoner}", **input_), within=SOON_SECONDS)


@pytest.mark.parametrize(
    "value",
    [["a", 1, None], "text", "", 7, 1.5, None, True, {}, 2**70, -(10**30), {"deep": [{"er": "ü\u0000"}]}],
    ids=repr,
)
def test_any_json_is_a_result(plane: Plane, value: Any) -> None:
    """Lists, texts, numbers of any size and null come back as they were returned."""
    ended = run(plane, "give", value=value)

    assert (ended["status"], ended["result"]) == ("succeeded", value)


def test_an_exception_is_a_failure(plane: Plane) -> None:
    """What a reasoner raises is the error of a failed execution, and it is not run again."""
    ended = run(plane, "boom")

    assert (ended["status"], ended["error"], ended["attempt"]) == ("failed", "boom", 1)


def test_a_failure_keeps_its_result(plane: Plane) -> None:
    """`ReasonerFailed(result=…)` fails with the words, the details and the result."""
    ended = run(plane, "half")

    assert (ended["status"], ended["error"]) == ("failed", "half done")
    assert (ended["result"], ended["error_details"]) == ({"partial": 1}, {"why": "test"})


def test_a_status_of_its_own_reaches_who_waits(plane: Plane) -> None:
    """`HTTPException(418)` answers a synchronous call with 418."""
    answer = plane.api.post("/execute/kinds.teapot", json={"input": {}})

    assert answer.status_code == 418
    assert "I am a teapot" in answer.text


def test_missing_input_is_final(plane: Plane) -> None:
    """The agent's 422 fails the execution at once, however many retries it has, and says what is missing."""
    body = {"input": {}, "retries": 5}
    accepted = plane.api.post("/execute/async/kinds.needs", json=body)
    assert accepted.status_code == 202, accepted.text
    ended = plane.end_of(accepted.json()["execution_id"], within=SOON_SECONDS)

    assert (ended["status"], ended["attempt"]) == ("failed", 1)
    assert "items" in ended["error"]


def test_missing_input_answers_422(plane: Plane) -> None:
    """Who waits for a reasoner that refuses its input is answered as the agent answered."""
    assert plane.api.post("/execute/kinds.needs", json={"input": {}}).status_code == 422


def test_a_skill_is_called(plane: Plane) -> None:
    """A skill answers inline, and its answer is the result."""
    assert run(plane, "add", a=2, b=3)["result"] == 5


def test_a_note_is_kept(plane: Plane) -> None:
    """`app.note` is kept with its tags."""
    id_ = plane.submit("kinds.speak")

    def notes() -> list[dict[str, Any]]:
        return list(plane.api.get(f"/executions/{id_}/notes").json()["notes"])

    [note] = until("the note", notes, seconds=SOON_SECONDS)
    assert (note["message"], note["tags"]) == ("a remark", ["people", "test"])


def test_an_agent_discovers_what_there_is(plane: Plane) -> None:
    """`app.discover` finds the agent's own reasoner by its tag."""
    assert run(plane, "look_around", tag="echo")["result"] == ["kinds.give"]


def test_an_agent_begins_an_execution_again(plane: Plane) -> None:
    """`app.client.restart_execution` is answered with a new execution, which runs with the old one's input."""
    first = run(plane, "give", value="once more")
    began = run(plane, "begin_again", execution_id=first["execution_id"])["result"]
    again = plane.end_of(began["execution_id"], within=SOON_SECONDS)

    assert began["source_execution_id"] == first["execution_id"]
    assert again["execution_id"] != first["execution_id"]
    assert again["result"] == "once more"
