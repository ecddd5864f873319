"""The article's agent on AgentField's own SDK: its curl line, its trace, its webhook."""

from __future__ import annotations

import pytest

from tests.e2e import seed
from tests.e2e.agentfield.article import ARTICLE, BATCH, FIRE, MODEL
from tests.e2e.agentfield.conftest import StartAgent
from tests.e2e.processes import Node, Plane, until
from tests.e2e.receiver import Model, Receiver
from tests.e2e.seed import shell, summaries, written

RESULT_LINE = 'results.append({"item": i, "summary": summary})'


@pytest.fixture(scope="module")
def batch(agent: StartAgent, model: Model) -> Node:
    """The article's agent, with a model behind `app.ai`."""
    return agent(BATCH, name="main", **model.env)


def test_the_agent_is_the_published_one() -> None:
    """What is started here is what was published; what runs to its end differs in one expression."""
    assert written(ARTICLE) == written(seed.AGENT)
    assert [line for line in written(ARTICLE) if line not in written(BATCH)] == [RESULT_LINE]


@pytest.mark.usefixtures("batch")
def test_fire_and_forget(plane: Plane, model: Model, receiver: Receiver) -> None:
    """One POST is answered with the three published fields; the signed webhook brings the result."""
    fired = shell(FIRE, plane, receiver.webhook["url"])
    [heard] = until("the webhook", lambda: receiver.about(fired["execution_id"]), seconds=20)

    assert (fired["status"], fired["webhook_registered"]) == ("queued", True)
    assert (heard.status, heard.word) == (200, "ok")
    assert (heard.body["event"], heard.body["status"]) == ("execution.completed", "succeeded")
    assert heard.body["result"] == summaries("doc one text", "doc two text", "...")
    assert [model.asked[text] for text in ("doc one text", "doc two text", "...")] == [1, 1, 1]


@pytest.mark.usefixtures("batch")
def test_every_log_line_is_in_the_trace(plane: Plane) -> None:
    """`log_info` lands in the execution's trace, and its "n/m" is the progress."""
    id_ = plane.submit("batch.process_corpus", items=["a", "b"], model=MODEL)
    plane.end_of(id_, within=20)
    until("both lines", lambda: len(processed(plane, id_)) == 2, seconds=5)
    progress = plane.look(id_)["progress"]

    assert sorted(processed(plane, id_)) == ["processed 1/2", "processed 2/2"]
    assert progress["total"] == 2  # the last line may come after the result, which settles how far it was


def test_the_published_agent_fails_in_its_sdk(
    plane: Plane, batch: Node, agent: StartAgent, model: Model, receiver: Receiver
) -> None:
    """What SDK 0.1.144 itself refuses of the published agent reaches the caller as a failure that says why."""
    batch.close()
    agent(ARTICLE, name="published", **model.env)
    for named, why in {"gpt-4o": "Must include provider prefix", MODEL: "not JSON serializable"}.items():
        id_ = plane.submit("batch.process_corpus", items=["a"], model=named, webhook=receiver.webhook)
        ended = plane.end_of(id_, within=30)
        [heard] = until("the webhook", lambda id_=id_: receiver.about(id_), seconds=10)

        assert ended["status"] == "failed"
        assert why in ended["error"]
        assert (heard.body["event"], heard.word) == ("execution.failed", "ok")
        assert why in heard.body["error_message"]


def processed(plane: Plane, id_: str) -> list[str]:
    """What the agent said of its progress."""
    lines = plane.api.get(f"/executions/{id_}/logs").json()["items"]
    return [line["message"] for line in lines if line["message"].startswith("processed ")]
