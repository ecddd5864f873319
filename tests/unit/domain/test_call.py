"""Calls: what goes along with them, what their answers mean, and what a process's own log says of its attempts."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.call import (
    BACK_SECONDS,
    ERROR_CHARS_MAX,
    Answer,
    Stop,
    Taken,
    away,
    event_of,
    fenced,
    finished_in,
    headers_of,
    judge,
    path_of,
    printable,
    read_stop,
    refused,
    worded,
)
from controlplane.domain.execution import Replay, ReplayMode
from controlplane.domain.ids import ExecutionId, show_execution
from controlplane.domain.lease import Fence, Lease, Report, Transport, Verdict

ID = ExecutionId(UUID("0190a0b0-0000-7000-8000-000000000000"))
OTHER = UUID("0190a0b0-0000-7000-8000-000000001000")
FENCE = Fence(ID, 3)
LEASE = Lease(
    execution_id=ID,
    attempt=3,
    failures=0,
    namespace=1,
    target="n.echo",
    type="reasoner",
    run_id="run-1",
    root_id=ID,
    parent_id=None,
    session_key=None,
    actor_key=None,
    input=b'{ "x": 1e999 }',
    context=None,
    timeout_seconds=None,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def judged(status: int | None, body: bytes = b"", *, by: Transport = Transport.PUSH, **facts: Any) -> Report | Taken:
    return judge(FENCE, Answer(status=status, body=body, **facts), transport=by)


def report(status: int, body: bytes = b"", *, by: Transport = Transport.PUSH, **facts: Any) -> Report:
    said = judged(status, body, by=by, **facts)
    assert isinstance(said, Report)
    return said


# What goes along with a call


def test_a_call_carries_its_attempt() -> None:
    """Whatever the process says of this execution will carry the attempt; nothing unknown is sent."""
    assert headers_of(LEASE) == {
        "X-Execution-ID": f"{show_execution(ID)}~3",
        "X-Run-ID": "run-1",
        "X-Workflow-ID": "run-1",
    }
    assert fenced(FENCE) == f"{show_execution(ID)}~3"


def test_a_call_carries_where_it_comes_from() -> None:
    """Parent (without a fence: it is an id to read), session and actor, when they are known."""
    headers = headers_of(replace(LEASE, parent_id=OTHER, session_key="s", actor_key="a"))

    assert headers["X-Parent-Execution-ID"] == show_execution(OTHER)
    assert (headers["X-Session-ID"], headers["X-Actor-ID"]) == ("s", "a")


@pytest.mark.parametrize("before", [None, OTHER])
def test_a_restarted_call_says_what_it_repeats(before: UUID | None) -> None:
    """The SDK hands these on to the children that it submits."""
    replay = Replay(source_run_id="run-0", mode=ReplayMode.SUCCEEDED_BEFORE, before_id=before)
    headers = headers_of(replace(LEASE, replay=replay))

    assert headers["X-AgentField-Replay-Source-Run-ID"] == "run-0"
    assert headers["X-AgentField-Replay-Mode"] == "succeeded-before"
    assert headers.get("X-AgentField-Replay-Before-Execution-ID") == (None if before is None else show_execution(OTHER))


def test_a_call_that_repeats_nothing_does_not_say_so() -> None:
    """Begun again from the start, it is a call like any other."""
    replay = Replay(source_run_id="run-0", mode=ReplayMode.NONE, before_id=OTHER)

    assert headers_of(replace(LEASE, replay=replay)) == headers_of(LEASE)


@pytest.mark.parametrize(("type_", "path"), [("reasoner", "/reasoners/echo"), ("skill", "/skills/echo")])
def test_reasoners_and_skills_have_their_paths(type_: str, path: str) -> None:
    """By the name that the function has at its node."""
    assert path_of(replace(LEASE, type=type_)) == path


def test_the_event_of_a_function() -> None:
    """Functions that exist only while they are called get everything in the body; the input stays byte for byte."""
    raw = event_of(replace(LEASE, input=b'{ "x": 1.0 }', parent_id=OTHER, session_key="s", actor_key="a"))

    assert b'"input":{ "x": 1.0 }' in raw
    assert json.loads(raw) == {
        "path": "/execute/echo",
        "target": "echo",
        "reasoner": "echo",
        "type": "reasoner",
        "input": {"x": 1.0},
        "execution_context": {
            "execution_id": fenced(FENCE),
            "run_id": "run-1",
            "workflow_id": "run-1",
            "parent_execution_id": show_execution(OTHER),
            "session_id": "s",
            "actor_id": "a",
        },
    }


def test_the_event_of_a_skill() -> None:
    """A skill is named as one, and what is not known is left out."""
    event = json.loads(event_of(replace(LEASE, type="skill", input=b"{}")))

    assert (event["type"], event["skill"]) == ("skill", "echo")
    assert set(event["execution_context"]) == {"execution_id", "run_id", "workflow_id"}


# What an answer means


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        (Answer(status=202), Taken.TAKEN),
        (Answer(status=202, body=b'{"status":"proc', broken=True), Taken.TAKEN),
        (Answer(status=429), Taken.FULL),
        (Answer(status=503), Taken.FULL),
        (Answer(status=503, body=b"<html>", clipped=True), Taken.FULL),
        (Answer(status=None, sent=False), Taken.UNSENT),
        (Answer(status=None, sent=True), Taken.UNKNOWN),
        (Answer(status=None, sent=True, broken=True), Taken.UNKNOWN),
        (Answer(status=200, body=b'{"half":', broken=True), Taken.UNKNOWN),
    ],
)
def test_what_does_not_end_the_attempt(answer: Answer, taken: Taken) -> None:
    """Taken, full, never sent, or nobody knows: a timeout after the request was sent is not a failure."""
    assert judge(FENCE, answer, transport=Transport.PUSH) is taken


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("body", [b'{"sum":3}', b"[1,2]", b'"text"', b"7", b"null", b' {"a" : 1.0} \n', b"1e999"])
def test_an_answer_with_the_result(status: int, body: bytes) -> None:
    """Any JSON is a result, byte for byte."""
    assert report(status, body) == Report(fence=FENCE, verdict=Verdict.SUCCEEDED, result=body)


@pytest.mark.parametrize(("status", "body"), [(204, b""), (200, b""), (200, b" \r\n")])
def test_an_answer_without_a_result_is_null(status: int, body: bytes) -> None:
    """No result is the JSON null."""
    assert report(status, body).result == b"null"


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"sum":3,"__agentfield_usage__":{"tokens":1}}', b'{"sum": 3}'),
        (b'{"__agentfield_usage__":[]}', b"{}"),
        (b'{"a":{"__agentfield_usage__":1}}', b'{"a":{"__agentfield_usage__":1}}'),
        (b'["__agentfield_usage__"]', b'["__agentfield_usage__"]'),
        (b'{"a":"__agentfield_usage__", "b":1.0}', b'{"a":"__agentfield_usage__", "b":1.0}'),
        (b'{"__agentfield_usage__":', b'{"__agentfield_usage__":'),
    ],
)
def test_the_tokens_used_are_no_part_of_the_result(body: bytes, result: bytes) -> None:
    """Only the reserved key of the outermost object is taken out; a result without it stays byte for byte."""
    assert report(200, body).result == result


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
def test_a_refusal_is_final(status: int) -> None:
    """The process would refuse this input again; callers who wait get its own status."""
    said = report(status, b'{"detail":"Missing required field: items"}')

    assert (said.verdict, said.retryable, said.http_status) == (Verdict.FAILED, False, status)
    assert (said.error, said.error_class) == (b'"Missing required field: items"', f"HTTP {status}")


@pytest.mark.parametrize("status", [500, 502, 504, 599])
def test_a_failure_is_tried_again(status: int) -> None:
    """By the policy of the reasoner, not before the process wants it."""
    said = report(status, b"<html>", retry_after_seconds=7.0)

    assert (said.verdict, said.retryable, said.http_status) == (Verdict.FAILED, True, status)
    assert (said.error, said.retry_after_seconds) == (b'"The node answered %d."' % status, 7.0)


@pytest.mark.parametrize("status", [302, 304])
def test_what_is_no_status_of_a_failure_is_not_passed_on(status: int) -> None:
    """A redirect is not followed: it is final, and no caller gets it."""
    said = report(status)

    assert (said.verdict, said.retryable, said.http_status) == (Verdict.FAILED, False, None)


def test_a_failure_that_broke_off_is_one() -> None:
    """The status was there; what it would have said besides does not matter."""
    assert report(422, b'{"det', broken=True).retryable is False
    assert report(500, b"", broken=True).retryable is True


def test_an_attempt_that_was_told_to_stop() -> None:
    """499: it did."""
    assert report(499, b'{"status":"cancelled"}') == Report(fence=FENCE, verdict=Verdict.CANCELLED)


def test_a_result_that_is_too_large_is_a_failure() -> None:
    """It could not be kept a second time either."""
    said = report(200, b'"xxx', clipped=True, broken=True)

    assert (said.verdict, said.retryable, said.error_class) == (Verdict.FAILED, False, "ResultInvalid")
    assert said == refused(FENCE, "The result is larger than this server takes.")


@pytest.mark.parametrize(("status", "retryable"), [(500, True), (422, False)])
def test_a_failure_with_too_many_words_stays_what_it_is(status: int, retryable: bool) -> None:
    """An error page of any size is an error, not a result that is too large."""
    said = report(status, b"<html>" * 1_000, clipped=True)

    assert (said.error_class, said.retryable, said.http_status) == (f"HTTP {status}", retryable, status)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"detail":"a","message":"b","error":"c"}', "a"),
        (b'{"detail":"","message":"b"}', "b"),
        (b'{"detail":null,"error":"c"}', "c"),
        (b'{"detail":[{"loc":["x"]}]}', '{"detail": [{"loc": ["x"]}]}'),
        (b'{"detail":"half \\ud800"}', "half ?"),
        (b"{}", "The node answered 500."),
        (b"[1]", "The node answered 500."),
        (b"[" * 100_000, "The node answered 500."),
        (b"\xff\xfe", "The node answered 500."),
        (b'{"a":' + b"9" * 5_000 + b"}", "The node answered 500."),
    ],
)
def test_the_error_in_the_words_of_the_process(body: bytes, error: str) -> None:
    """Wherever it put them; what cannot be read is no error of ours."""
    said = report(500, body).error
    assert said is not None

    assert json.loads(said) == error


def test_the_words_of_an_error_are_kept_up_to_a_length() -> None:
    """A page of them is cut."""
    said = report(500, b'{"error":"%b"}' % (b"x" * 2 * ERROR_CHARS_MAX)).error

    assert said == b'"%b"' % (b"x" * ERROR_CHARS_MAX)


@pytest.mark.parametrize(
    ("words", "kept"),
    [("plain \0 é 😀", "plain \0 é 😀"), ("\ud800", "?"), ("a\udfffb", "a?b"), ("\ud83d\ude00", "??")],
)
def test_half_a_surrogate_pair_is_no_unicode(words: str, kept: str) -> None:
    """Such a string cannot be sent to anybody; a question mark stands in for it."""
    assert printable(words) == kept


# Functions that exist only while they are called


@pytest.mark.parametrize(
    "body", [b'{"a":1}', b"[]", b'"x"', b'{"statusCode":"200","body":1}', b'{"statusCode":200,"a":1}']
)
def test_a_function_answers_with_its_result(body: bytes) -> None:
    """Whatever does not look like the answer of a gateway is the result, whole."""
    assert report(200, body, by=Transport.SERVERLESS).result == body


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b'{"statusCode":200,"body":"{\\"a\\":1}"}', b'{"a":1}'),
        (b'{"statusCode":200,"body":{"a":1},"headers":{}}', b'{"a": 1}'),
        (b'{"statusCode":201,"body":"plain words","isBase64Encoded":false}', b'"plain words"'),
        (b'{"statusCode":200}', b"null"),
        (b'{"statusCode":200,"body":{"a":1,"__agentfield_usage__":{}}}', b'{"a": 1}'),
    ],
)
def test_a_gateway_is_unwrapped(body: bytes, result: bytes) -> None:
    """Behind a gateway we would see the inner body only."""
    assert report(200, body, by=Transport.SERVERLESS).result == result


def test_a_failure_inside_a_gateway_is_one() -> None:
    """The inner status decides, and so do its words."""
    final = report(200, b'{"statusCode":422,"body":"{\\"error\\":\\"no x\\"}"}', by=Transport.SERVERLESS)
    again = report(200, b'{"statusCode":500,"body":null}', by=Transport.SERVERLESS)

    assert (final.retryable, final.http_status, final.error) == (False, 422, b'"no x"')
    assert (again.retryable, again.http_status, again.error) == (True, 500, b'"The node answered 500."')


@pytest.mark.parametrize("code", [b"true", b"7", b"1000", b"-1"])
def test_what_is_no_status_is_a_result(code: bytes) -> None:
    """A function may return a field of that name."""
    body = b'{"statusCode":%b}' % code

    assert report(200, body, by=Transport.SERVERLESS).result == body


def test_a_process_is_not_unwrapped() -> None:
    """What looks like a gateway's answer is the result of a skill."""
    assert report(200, b'{"statusCode":500,"body":1}').result == b'{"statusCode":500,"body":1}'


def test_a_function_does_not_report_later() -> None:
    """202 from a function is an answer like any other: nobody will say more."""
    assert report(202, b'{"a":1}', by=Transport.SERVERLESS).result == b'{"a":1}'


# Being told to stop


@pytest.mark.parametrize(
    ("answer", "stop"),
    [
        (Answer(status=200, body=b'{"cancelled":true,"execution_id":"e"}'), Stop.STOPPED),
        (Answer(status=200, body=b'{"cancelled":false,"reason":"execution_not_active"}'), Stop.IDLE),
        (Answer(status=200, body=b'{"cancelled":false}'), Stop.UNKNOWN),
        (Answer(status=200, body=b'{"cancelled":"true"}'), Stop.UNKNOWN),
        (Answer(status=200, body=b"ok"), Stop.UNKNOWN),
        (Answer(status=500, body=b'{"cancelled":true}'), Stop.UNKNOWN),
        (Answer(status=404), Stop.UNABLE),
        (Answer(status=405), Stop.UNABLE),
        (Answer(status=501), Stop.UNABLE),
        (Answer(status=None), Stop.UNKNOWN),
    ],
)
def test_what_a_process_says_to_being_stopped(answer: Answer, stop: Stop) -> None:
    """Only its plain word is proof that it ran the attempt or does not."""
    assert read_stop(answer) is stop


# The process's own log


def ring(*lines: object) -> bytes:
    """The log of a process as the SDK hands it out: each line inside a line of JSON."""
    outer = [
        {
            "v": 1,
            "seq": n,
            "ts": "2026-11-23T02:24:40.649Z",
            "stream": "stdout",
            "line": line if isinstance(line, str) else json.dumps(line, ensure_ascii=False, separators=(",", ":")),
            "source": "process",
            "level": "info",
        }
        for n, line in enumerate(lines)
    ]
    return b"".join(json.dumps(one).encode() + b"\n" for one in outer)


def logged(event: str = "reasoner.completed", id_: str = fenced(FENCE), **attributes: object) -> dict[str, object]:
    return {
        "ts": "2026-11-23T02:24:40.649989+00:00",
        "execution_id": id_,
        "workflow_id": "run-1",
        "run_id": "run-1",
        "root_workflow_id": "run-1",
        "parent_execution_id": None,
        "agent_node_id": "n",
        "reasoner_id": "echo",
        "level": "info",
        "source": "sdk.python.agent_workflow",
        "event_type": event,
        "message": "Reasoner echo completed",
        "attributes": attributes,
        "system_generated": True,
    }


def said(*lines: object) -> dict[Fence, Report | None]:
    return dict(finished_in(ring(*lines)))


@pytest.mark.parametrize("result", [{"a": "é"}, [1, 2], "text", 0, False, "\u2028", "\ud800"])
def test_a_result_is_found_in_the_log(result: object) -> None:
    """Among the other lines that a process writes."""
    found = dict(
        finished_in(ring("INFO: started", logged("reasoner.started"), logged(result=result), logged("log.info")))
    )

    assert found.keys() == {FENCE}
    report = found[FENCE]
    assert report is not None
    assert (report.verdict, json.loads(report.result or b"")) == (Verdict.SUCCEEDED, result)


def test_a_result_that_is_not_said_is_null() -> None:
    """The SDK leaves out a None."""
    assert said(logged(status="succeeded")) == {FENCE: Report(fence=FENCE, verdict=Verdict.SUCCEEDED, result=b"null")}


@pytest.mark.parametrize(
    "attributes",
    [{"result": "<704 bytes elided>"}, {"_elided": "<1911 bytes elided>"}],
)
def test_a_result_that_was_too_long_for_the_log(attributes: dict[str, object]) -> None:
    """It is known that the attempt is over, and not how."""
    assert said(logged(**attributes)) == {FENCE: None}


def test_attributes_that_were_too_long_for_the_log() -> None:
    """Nor where nothing is left of them."""
    assert said(logged() | {"attributes": "<90 bytes elided>"}) == {FENCE: None}


def test_only_the_whole_mark_is_one() -> None:
    """A result that speaks of elided bytes is a result."""
    found = said(logged(result="see <704 bytes elided>"))[FENCE]

    assert found is not None
    assert found.result == b'"see <704 bytes elided>"'


def test_a_number_that_is_no_json() -> None:
    """NaN cannot be handed on: that it is over is all there is to know."""
    assert said(logged(result=float("nan"))) == {FENCE: None}


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"error": "boom"}, b'"boom"'),
        ({"error": {"why": 1}}, b"\"{'why': 1}\""),
        ({"error": "\ud800"}, b'"?"'),
        ({"error": "<702 bytes elided>"}, b'"<702 bytes elided>"'),
        ({"error": ""}, b'""'),
        ({}, b'""'),
    ],
)
def test_a_failure_is_found_in_the_log(attributes: dict[str, object], error: bytes) -> None:
    """With its words, as far as they are there."""
    found = said(json.dumps(logged("reasoner.failed", status="failed", **attributes)))

    assert found == {FENCE: Report(fence=FENCE, verdict=Verdict.FAILED, error=error)}


@pytest.mark.parametrize(
    ("status", "error", "verdict"),
    [
        ("failed", "Execution cancelled by upstream client", Verdict.CANCELLED),
        ("cancelled", "cancelled during graceful shutdown", Verdict.RELEASED),
    ],
)
def test_a_stopped_attempt_has_not_failed(status: str, error: str, verdict: Verdict) -> None:
    """The SDK logs it as a failure; its callback, which was lost, would have said what it was."""
    assert said(logged("reasoner.failed", status=status, error=error)) == {FENCE: Report(fence=FENCE, verdict=verdict)}


@pytest.mark.parametrize(
    "line",
    [
        logged(id_=show_execution(ID), result=1),
        logged(id_=f"{show_execution(ID)}~0", result=1),
        logged(id_="exec_1795400680648_1534eaf6", result=1),
        logged(id_="3f1c2b1e-0000-4000-8000-000000000000", result=1),
        logged(result=1) | {"execution_id": None},
        logged("reasoner.started", result=1),
        logged("x", result=1) | {"message": '"reasoner.completed"'},
        logged(result=1) | {"event_type": ["reasoner.completed"]},
        json.dumps(logged(result="y" * 700))[:500],
        '["reasoner.completed"]',
        '"reasoner.completed',
        '"reasoner.completed" \ud800',
    ],
)
def test_lines_that_say_nothing_of_ours(line: object) -> None:
    """Ids of somebody else or without an attempt, lines that were cut, other events."""
    assert said(line) == {}


@pytest.mark.parametrize(
    "lines",
    [b"", b"\n\n", b"<html>\n", b'{"line":7}\n', b"\xff\xfe\n", b'{"line":"\\"reasoner.', b"[" * 100_000],
)
def test_what_is_no_log(lines: bytes) -> None:
    """Whatever a process answers there, it says nothing of our attempts."""
    assert list(finished_in(lines)) == []


def test_each_attempt_is_its_own() -> None:
    """Two attempts of one execution are told apart, and a line that was cut at the end spoils nothing."""
    first = f"{show_execution(ID)}~1"
    lines = ring(logged("reasoner.failed", id_=first, error="x"), logged(result=1))

    found = dict(finished_in(lines + lines[:90]))

    assert [one and one.verdict for one in found.values()] == [Verdict.FAILED, Verdict.SUCCEEDED]
    assert list(found) == [Fence(ID, 1), FENCE]


def test_a_log_of_very_many_lines_takes_little_memory() -> None:
    """It comes from a process that may say anything: its lines are looked at one after the other."""
    lines = b"{}\n" * 1_000_000
    tracemalloc.start()
    try:
        assert list(finished_in(lines)) == []
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 2 * len(lines)


@pytest.mark.parametrize(("padding", "found"), [(1_000, 1), (300_000, 0)])
def test_a_line_longer_than_any_is_passed_over(padding: int, found: int) -> None:
    """No SDK logs one, and it is not taken apart."""
    said = {"execution_id": fenced(FENCE), "event_type": "reasoner.completed", "attributes": {"result": "x" * padding}}

    assert len(list(finished_in(json.dumps({"line": json.dumps(said)}).encode()))) == found


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("Failed to set memory key 'done': All connection attempts failed", True),
        ("Failed to get memory key 'done': ", True),
        ("Failed to request approval: Server disconnected without sending a response.", True),
        ("503, The database cannot be reached right now; try again.", True),
        ("503: {'error': '503, This server is shutting down; try again.', 'error_details': {'status': 503}}", True),
        ("502: {'error': '502'}", True),
        ("Server error '503 Service Unavailable' for url 'http://cp:8080/api/v1/executions/exec_1'\nFor more", True),
        ("Server error '503 Service Unavailable' for url 'http://shop/api/v1/orders/1'", False),
        ("All connection attempts failed", False),
        ("503: the shop is closed", False),
        ("503, sold out", False),
        ("Failed to set memory key 'done': Client error '409 Conflict' for url 'http://cp/api/v1/memory/set'", False),
        ("boom", False),
    ],
)
def test_whether_it_was_us_who_was_away(words: str, ours: bool) -> None:
    """What the SDK makes of a control plane that is away is told apart from what a reasoner's own errors say."""
    assert away(Report(fence=FENCE, verdict=Verdict.FAILED, error=json.dumps(words).encode())) is ours


@pytest.mark.parametrize(
    "words", ["All connection attempts failed", "Server disconnected without sending a response.", ""]
)
def test_words_that_do_not_name_us(words: str) -> None:
    """A connection that failed was one to us when we have just begun; else it is the reasoner's own affair."""
    failed = Report(fence=FENCE, verdict=Verdict.FAILED, error=json.dumps(words).encode())

    assert away(failed, up_seconds=BACK_SECONDS / 2)
    assert not away(failed, up_seconds=BACK_SECONDS)
    assert not away(replace(failed, error=json.dumps(f"the shop: {words}!").encode()), up_seconds=0.0)


def test_a_failure_without_words_gets_one() -> None:
    """Somebody will read it; words that are there stay."""
    failed = Report(fence=FENCE, verdict=Verdict.FAILED, error=b'""')

    assert worded(failed).error == b'"failed"'
    assert worded(replace(failed, error=b'"boom"')).error == b'"boom"'
    assert away(failed, up_seconds=0.0)
    assert not away(worded(failed), up_seconds=0.0)
