"""The body of the webhook that tells how an execution ended."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.execution import FINAL, Held, Settlement, State, Status
from controlplane.domain.ids import ExecutionId, show_execution
from controlplane.domain.notice import Notice, error_text, milliseconds, moment, notice_body, text

START = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
HELD = Held(
    id=ExecutionId(UUID(int=7 << 76)),
    namespace=1,
    target="shop.quote",
    run_id='run "1"',
    state=State.LEASED,
    attempt=3,
    failures=2,
    crashes=0,
    retries_max=5,
    webhooks=1,
    session_id=None,
    leased_at=START,
    started_at=START,
    cancel_requested=False,
    cancel_reason=None,
    progress=None,
)
NOTICE = Notice(
    settlement=Settlement(held=HELD, status=Status.SUCCEEDED, result=b'{"a": 1.0}'),
    type="reasoner",
    context=None,
    session_key=None,
    actor_key=None,
    created_at=START - timedelta(seconds=5),
    finished_at=START + timedelta(seconds=1.5),
)


def told(notice: Notice = NOTICE, **end: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(notice_body(replace(notice, settlement=replace(notice.settlement, **end))))
    return body


def failed(**end: Any) -> dict[str, Any]:
    return told(**({"status": Status.FAILED, "result": None, "status_reason": "user_error"} | end))


def test_tells_a_success() -> None:
    """Field for field; what is absent is left out."""
    assert told() == {
        "event": "execution.completed",
        "execution_id": show_execution(HELD.id),
        "run_id": 'run "1"',
        "workflow_id": 'run "1"',
        "agent_node_id": "shop",
        "reasoner_id": "quote",
        "target": "shop.quote",
        "type": "reasoner",
        "status": "succeeded",
        "started_at": "2024-05-06T07:08:09.123456Z",
        "completed_at": "2024-05-06T07:08:10.623456Z",
        "duration_ms": 1500,
        "retry_count": 2,
        "result": {"a": 1.0},
        "timestamp": "2024-05-06T07:08:10.623456Z",
    }


@pytest.mark.parametrize("status", sorted(FINAL - {Status.SUCCEEDED}))
def test_every_other_end_is_a_failure_with_its_own_status(status: Status) -> None:
    """AgentField knows two events; the exact end stands in `status`, its cause in two places."""
    body = failed(status=status, status_reason="why", error=b'"boom"', error_details=b"[1]")

    assert (body["event"], body["status"], body["status_reason"], body["error_category"]) == (
        "execution.failed", status.value, "why", "why",
    )  # fmt: skip
    assert (body["error_message"], body["error_details"], "result" in body) == ("boom", [1], False)


@pytest.mark.parametrize("result", [None, b"null"])
def test_a_success_always_has_a_result(result: bytes | None) -> None:
    """If only null."""
    assert told(result=result)["result"] is None


def test_payloads_are_spliced_in_as_they_came() -> None:
    """Not parsed and written anew: numbers, order and spaces stay."""
    raw = b'{ "z" : 1e400, "a" : 1.10 }'
    notice = replace(NOTICE, context=raw, settlement=replace(NOTICE.settlement, result=raw))

    assert notice_body(notice).count(raw) == 2


def test_tells_what_the_caller_said_of_itself() -> None:
    """Session, actor and context come back."""
    body = told(replace(NOTICE, session_key="s", actor_key="ä\ud800", context=b"[7]"))

    assert (body["session_id"], body["actor_id"], body["context"]) == ("s", "ä\ud800", [7])


def test_what_never_started_began_when_it_was_asked_for() -> None:
    """A cancel in the queue has no start; its duration is the time it waited."""
    body = failed(held=replace(HELD, started_at=None))

    assert (body["started_at"], body["duration_ms"]) == ("2024-05-06T07:08:04.123456Z", 6500)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, ""),
        (b'"boom"', "boom"),
        (b' "\\u00e4\\n" ', "ä\n"),
        (b'{"a": 1}', '{"a": 1}'),
        (b"null", "null"),
        (b"1" * 5_000, "1" * 5_000),
        (b"[" * 9_000 + b"]" * 9_000, "[" * 9_000 + "]" * 9_000),
    ],
)
def test_an_error_may_be_any_json(error: bytes | None, words: str) -> None:
    """A string says its words, anything else is shown as it is."""
    assert error_text(error) == words


def test_the_body_is_plain_ascii() -> None:
    """So that no receiver can stumble over an encoding, nor a half surrogate break ours."""
    assert text("ä\ud800\x00").isascii()
    assert json.loads(text("ä\ud800\x00")) == "ä\ud800\x00"


def test_moments_are_utc() -> None:
    """Whatever zone they came in."""
    assert moment(START.astimezone(timezone(timedelta(hours=5)))) == "2024-05-06T07:08:09.123456Z"


def test_time_never_runs_backwards() -> None:
    """Two clocks may disagree; a duration is not negative."""
    assert milliseconds(START, START - timedelta(seconds=1)) == 0
