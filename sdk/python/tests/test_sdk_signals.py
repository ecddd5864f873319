"""What a caller tells an execution that waits, and how it looks at its steps, against a control plane's double."""

from __future__ import annotations

from controlplane_sdk import Client, Signal


async def test_a_signal_is_sent_once(double):
    """Also when its answer is lost; any JSON is a payload, and none is null."""
    double.misbehave.append(("/deploy.approved", "lose the answer"))
    async with Client(double.url) as client:
        sent = await client.signal("exec_1", "deploy.approved", {"by": "me"})
        await client.execution("exec_1").signal("stop")
        await client.signal("exec_1", "stop", 1, idempotency_key="k")
        await client.signal("exec_1", "stop", 1, idempotency_key="k")

    assert sent == Signal(signal_id="sig_1", execution_id="exec_1", event="deploy.approved", delivered=False)
    assert double.signals["exec_1"] == [("deploy.approved", {"by": "me"}), ("stop", None), ("stop", 1)]


async def test_the_steps_of_an_execution(double):
    """All of them, however many pages they are."""
    step = {"kind": "step", "status": "done", "attempt": 1}
    double.steps["exec_1"] = {f"s{n}": {"name": f"s{n}", "value": n} | step for n in range(450)}
    async with Client(double.url) as client:
        found = await client.steps("exec_1")

    assert [one.value for one in found] == list(range(450))
    assert found[0].done


async def test_the_first_decision_stands(double):
    """`approve` and `reject` answer with what is decided, whoever was first."""
    async with Client(double.url) as client:
        before = (await client.approval("exec_1")).status
        said = [await client.approve("exec_1", "fine", response={"n": 1}), await client.reject("exec_1", "no")]
        after = (await client.approval("exec_1")).status

    assert (before, said, after) == ("pending", ["approved", "approved"], "approved")
    assert double.said("/approval-response") == [
        {"decision": "approved", "feedback": "fine", "response": {"n": 1}},
        {"decision": "rejected", "feedback": "no"},
    ]
