"""Cancels and webhooks on AgentField's SDK: each execution is told of once, as what it came to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.agentfield.conftest import StartAgent
from tests.e2e.processes import Node, Plane, Stage, until
from tests.e2e.receiver import Receiver

KINDS = (Path(__file__).parent / "kinds_agent.py").read_text()
SOON_SECONDS = 10.0


@pytest.fixture(scope="module", autouse=True)
def kinds(agent: StartAgent) -> Node:
    """The agent whose reasoners these tests call."""
    return agent(KINDS, name="kinds")


def told(plane: Plane, receiver: Receiver, id_: str) -> tuple[str, str]:
    """The one thing that the receiver was told of this execution, once the server has nothing more to say."""
    until("the webhook", lambda: receiver.about(id_), seconds=SOON_SECONDS)
    until("it to be settled", lambda: states(plane, id_) == ["delivered"], seconds=SOON_SECONDS)
    [heard] = receiver.about(id_)
    assert heard.word == "ok"
    return heard.body["event"], heard.body["status"]


def states(plane: Plane, id_: str) -> list[str]:
    return [one["state"] for one in plane.api.get(f"/executions/{id_}/deliveries").json()["items"]]


@pytest.mark.parametrize(
    ("reasoner", "expected"),
    [("give", ("execution.completed", "succeeded")), ("half", ("execution.failed", "failed"))],
)
def test_an_end_is_told_once(plane: Plane, receiver: Receiver, reasoner: str, expected: tuple[str, str]) -> None:
    """Success and failure are told as such, once, however many callbacks and events the SDK sends."""
    id_ = plane.submit(f"kinds.{reasoner}", webhook=receiver.webhook)
    plane.end_of(id_, within=SOON_SECONDS)

    assert told(plane, receiver, id_) == expected


def test_a_cancel_reaches_the_reasoner(plane: Plane, stage: Stage, receiver: Receiver) -> None:
    """A cancel while it runs: the reasoner sees CancelledError, the status is cancelled, and that is told once."""
    id_ = plane.submit("kinds.endless", name="one", webhook=receiver.webhook)
    until("it to begin", (stage.folder / "one.begun").exists, seconds=SOON_SECONDS)
    answer = plane.api.post(f"/executions/{id_}/cancel", json={"reason": "enough"})
    ended = plane.end_of(id_, within=SOON_SECONDS)

    assert answer.status_code == 200
    assert (ended["status"], ended["attempt"]) == ("cancelled", 1)
    assert (stage.folder / "one.told").exists()
    assert told(plane, receiver, id_) == ("execution.failed", "cancelled")
    assert plane.event_types_of(id_).count("execution.cancelled") == 1


def test_what_waits_is_cancelled_without_an_agent(plane: Plane, kinds: Node, stage: Stage, receiver: Receiver) -> None:
    """A cancel of what waits for an agent that is away: cancelled at once, and no agent runs it when it is back."""
    kinds.terminate()
    kinds.ended(within=SOON_SECONDS)
    id_ = plane.submit("kinds.endless", name="never", webhook=receiver.webhook)
    plane.api.post(f"/executions/{id_}/cancel", json={})
    ended = plane.look(id_)
    kinds.start()
    kinds.ready()
    after = plane.end_of(plane.submit("kinds.give", value=1), within=SOON_SECONDS)

    assert ended["status"] == "cancelled"
    assert told(plane, receiver, id_) == ("execution.failed", "cancelled")
    assert after["status"] == "succeeded"
    assert not (stage.folder / "never.begun").exists()
