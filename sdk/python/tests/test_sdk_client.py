"""A caller's side: start once, wait through outages, follow events, cancel."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone

import pytest

from controlplane_sdk import (
    AlreadyFinished,
    Client,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionTimeout,
    NotFound,
    RequestRefused,
    ServerUnreachable,
)
from controlplane_sdk.sse import frames
from controlplane_sdk.transport import refusal


async def test_a_start_whose_answer_is_lost_still_starts_once(double):
    """The idempotency key is made once per call, so that it may be sent again."""
    double.misbehave.extend([("n.f", "503"), ("n.f", "lose the answer")])
    async with Client(double.url, api_key="k") as client:
        handle = await client.start("n.f", items=["a"], webhook="http://hook", run_id="run_9")
    sent = [(headers, body) for _, path, headers, body in double.heard if path == "/execute/async/n.f"]

    assert len(sent) == 3
    assert len({headers["idempotency-key"] for headers, _ in sent}) == 1
    assert (sent[0][0]["x-api-key"], sent[0][0]["x-run-id"]) == ("k", "run_9")
    assert sent[0][1] == {"input": {"items": ["a"]}, "webhook": {"url": "http://hook"}}
    assert list(double.executions) == [handle.execution_id]


async def test_result_waits_for_the_end(double):
    """A long poll, repeated through an outage, gives the result."""
    async with Client(double.url) as client:
        handle = await client.start("n.f")
        waiting = asyncio.create_task(handle.result(timeout=10))
        double.misbehave.append((handle.execution_id, "503"))
        await double.until(lambda: not double.misbehave)
        double.finish(handle.execution_id, status="succeeded", result=[1])

        assert await waiting == [1]
        assert (await handle.status()).finished


@pytest.mark.parametrize(
    ("status", "error"),
    [("failed", ExecutionFailed), ("cancelled", ExecutionCancelled), ("timeout", ExecutionTimeout)],
)
async def test_other_endings_raise(double, status, error):
    """Each ending has an error of its own, with what is known of it."""
    async with Client(double.url) as client:
        handle = await client.start("n.f")
        double.finish(handle.execution_id, status=status, error="boom", error_class="ValueError", attempt=3)
        with pytest.raises(error, match="boom") as caught:
            await handle.result()

    assert (caught.value.error_class, caught.value.attempts) == ("ValueError", 3)


async def test_a_result_that_takes_too_long_is_a_timeout_error(double):
    """The caller stops waiting; the execution goes on."""
    async with Client(double.url) as client:
        handle = await client.start("n.f")
        with pytest.raises(TimeoutError, match=f"{handle.execution_id} has not ended within 0.1 s"):
            await handle.result(timeout=0.1)


def test_a_refusal_says_where():
    """The field, what is wrong with it, and what to do; where all of the body is meant nothing is added."""
    problem = {"detail": "Bad minute.", "where": "body.cron", "fix": "Five fields."}

    assert str(refusal(422, "invalid", problem)) == "body.cron: Bad minute. (Five fields.)"
    assert str(refusal(422, "invalid", {**problem, "where": "body"})) == "Bad minute. (Five fields.)"


async def test_events_resume_where_a_lost_connection_left_off(double):
    """The cursor is sent back, nothing is missed, nothing comes twice, and the end ends the stream."""
    async with Client(double.url) as client:
        handle = await client.start("n.f")
        types = ["execution_started", "execution_updated", "execution_retried", "execution_completed"]
        double.frames[handle.execution_id] = [
            (n == 1, {"type": name, "text": "a\u2028b"}) for n, name in enumerate(types)
        ]
        seen = [event async for event in handle.events()]

    assert [event.type for event in seen] == types
    assert seen[0].data["text"] == "a\u2028b"


async def test_events_of_a_finished_execution_end_at_once(double):
    """Whoever comes late still gets the last event."""
    async with Client(double.url) as client:
        handle = await client.start("n.f")
        double.finish(handle.execution_id, status="failed", error="boom")
        seen = [event async for event in client.execution(handle.execution_id).events()]

    assert [event.type for event in seen] == ["execution_failed"]
    assert seen[0].data["error"] == "boom"


async def test_cancel_says_whether_it_came_in_time(double):
    """True when the execution is being stopped, False when it had ended already."""
    async with Client(double.url) as client:
        handle = await client.start("n.f")

        assert await handle.cancel("enough") is True
        assert await handle.cancel() is False


async def test_explain_says_why(double):
    """The sentence, its code and its facts; an unknown execution is NotFound."""
    async with Client(double.url) as client:
        handle = await client.start("n.f")
        said = await client.explain(handle.execution_id)
        with pytest.raises(NotFound):
            await client.explain("exec_unknown")

    assert (said.code, said.sentence, said.facts) == ("no_node", "Nobody is there.", {"processes": 0})


async def test_attempts_are_read_to_the_last(double):
    """Page after page, the newest last."""
    async with Client(double.url) as client:
        tries = await client.attempts("exec_1")

    assert [one.attempt for one in tries] == list(range(1, 252))


async def test_pause_and_resume_are_said_once_however_often(double):
    """A lost answer makes the second request a repeat, which is no refusal."""
    double.misbehave += [("pause", "lose the answer"), ("resume", "lose the answer")]
    async with Client(double.url) as client:
        handle = await client.start("n.f")
        await client.pause(handle.execution_id, "hold on")
        paused = await handle.status()
        await client.resume(handle.execution_id)
        resumed = await handle.status()

    assert double.said("/pause") == [{"reason": "hold on"}] * 2
    assert (paused.status_reason, resumed.status_reason) == ("paused", None)


async def test_what_has_ended_or_is_being_cancelled_cannot_be_paused(double):
    """Each refusal is an error of its own, for both verbs."""
    async with Client(double.url) as client:
        handle = await client.start("n.f")
        double.finish(handle.execution_id, status_reason="cancelling")
        for verb in (handle.pause, handle.resume):
            with pytest.raises(RequestRefused, match="invalid_state"):
                await verb()
        double.finish(handle.execution_id, status="succeeded", result=1)
        for verb in (handle.pause, handle.resume):
            with pytest.raises(AlreadyFinished):
                await verb()


async def test_restart_begins_a_new_run_once(double):
    """What is left out is not sent, a lost answer starts nothing twice, and the handle is that of the new execution."""
    double.misbehave.append(("restart", "lose the answer"))
    async with Client(double.url) as client:
        old = await client.start("n.f")
        again = await client.restart(
            old.execution_id, reuse="none", reason="enough", input={"n": 1}, webhook="http://h"
        )
        double.finish(again.execution_id, status="succeeded", result=2)

        assert await again.result() == 2
    sent = double.said("/restart")

    assert sent == 2 * [
        {
            "scope": "workflow",
            "reuse": "none",
            "reason": "enough",
            "input": {"n": 1},
            "webhook": {"url": "http://h"},
        }
    ]
    assert (again.run_id, len(double.executions)) == ("run_again", 2)


async def test_many_are_started_in_pieces_that_share_a_run(double):
    """A thousand to a request, which is sent again after a lost answer; handles and refusals stand in their places."""
    double.misbehave.append(("batch", "lose the answer"))
    items = [{"target": "n.f", "input": {"n": n}, "webhook": "http://h"} for n in range(2_400)]
    items[1_200]["target"] = "n.nobody"
    async with Client(double.url) as client:
        started = await client.submit_many(items, same_run=True, idempotency_key="k")
    heard = [(headers["idempotency-key"], headers.get("x-run-id")) for _, _, headers, _ in double.heard]

    assert heard == [("k-0", None), ("k-0", None), ("k-1", "run_new"), ("k-2", "run_new")]
    assert [len(body["items"]) for body in double.said("/batch")] == [1_000, 1_000, 1_000, 400]
    assert double.said("/batch")[0]["items"][1] == {"target": "n.f", "input": {"n": 1}, "webhook": {"url": "http://h"}}
    assert [one.execution_id for one in started[998:1_001]] == ["exec_k-0_998", "exec_k-0_999", "exec_k-1_0"]
    assert isinstance(started[1_200], NotFound)
    assert len(started) == 2_400


async def test_large_items_are_sent_in_smaller_pieces(double):
    """No request is larger than the control plane takes; an item that is, is sent alone and refused there."""
    async with Client(double.url) as client:
        await client.submit_many([{"target": "n.f", "input": {"text": "a" * 3_000_000}} for _ in range(5)])

    assert [len(body["items"]) for body in double.said("/batch")] == [2, 2, 1]


async def test_a_start_may_wait_for_its_moment(double):
    """A moment is sent with its offset; without one it could mean any hour."""
    async with Client(double.url) as client:
        await client.start("n.f", run_at=datetime(2030, 1, 1, 9, tzinfo=timezone(timedelta(hours=1))))
        await client.start("n.f", delay_seconds=60)
        with pytest.raises(ValueError, match="time zone"):
            await client.start("n.f", run_at=datetime(2030, 1, 1, 9))  # noqa: DTZ001 - that is what is refused

    assert double.said("n.f") == [
        {"input": {}, "run_at": "2030-01-01T09:00:00+01:00"},
        {"input": {}, "delay_seconds": 60},
    ]


async def test_what_failed_is_retried_once(double):
    """A lost answer retries nothing twice, and the handle is that of the new execution."""
    double.misbehave.append(("retry", "lose the answer"))
    async with Client(double.url) as client:
        old = await client.start("n.f")
        again = await client.retry(old.execution_id, reason="enough", delay_seconds=5)

    assert double.said("/retry") == 2 * [{"reuse": "succeeded-before", "reason": "enough", "delay_seconds": 5}]
    assert again.execution_id != old.execution_id
    assert len(double.executions) == 2


async def test_get_and_list_read_executions(double):
    """An unknown id is NotFound; a list is a page."""
    async with Client(double.url) as client:
        handle = await client.start("n.f")
        with pytest.raises(NotFound):
            await client.get("exec_unknown")
        page = await client.list(status="queued")

    assert [execution.execution_id for execution in page.items] == [handle.execution_id]


async def test_a_control_plane_that_is_not_there_is_unreachable():
    """The error names the address, after the patience is over."""
    async with Client("127.0.0.1:9", patience_seconds=0.1) as client:
        with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
            await client.get("exec_1")


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
async def test_event_streams_are_read_whatever_their_chunks(size):
    """CR, LF and CRLF end a line, however the bytes are cut."""
    raw = "id: 1\r\ndata: a\r\n\r\n: comment\n\ndata:b\ndata: c\n\nid: é\rdata: d\u2028e\r\rdata: cut".encode()

    async def chunks():
        for at in range(0, len(raw), size):
            yield raw[at : at + size]

    assert [tuple(frame) async for frame in frames(chunks())] == [("a", "1"), ("b\nc", "1"), ("d\u2028e", "é")]
