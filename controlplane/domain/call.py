"""A call: work that is sent to a process instead of fetched by it, and what the process's answers mean.

A process answers 202 and reports later, or answers with the result itself. Nothing else is certain: a refused
connection means that nothing was sent, an answer that never came means that nobody knows.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from controlplane.domain.execution import ReplayMode
from controlplane.domain.ids import is_execution, read_fenced, show_execution
from controlplane.domain.lease import Fence, Lease, Report, Transport, Verdict
from controlplane.domain.notice import error_text, text
from controlplane.domain.target import parse
from controlplane.errors import Invalid

AWAY_REASON = "server_unreachable"
BACK_SECONDS = 20.0
"""How long after our start we hear of what failed of our absence: the SDK tries for 15 s to tell us."""
AGAIN_SECONDS = 1.0
"""How soon work is offered again to a process that was full."""

ERROR_CHARS_MAX = 4_000
LOG_LINE_BYTES_MAX = 256 * 1024
"""Longer lines of a process's own log are passed over: its SDK cuts them at 16 KiB, before they become JSON."""

USAGE = b"__agentfield_usage__"
ELIDED = re.compile(r"<\d+ bytes elided>")

# What AgentField's SDK makes of a control plane that is away, in the words of its memory, calls and HTTP client.
OUR_DOOR = re.compile(
    r"Failed to (set|get|delete|list|submit|perform|request approval|wait for|poll)\b"
    r"|Cross-agent call to |AgentField server unavailable",
    re.IGNORECASE,
)
AWAY = re.compile(
    r"all connection attempts failed|server disconnected|connection (refused|reset|aborted|broken)|connect(ion)? ?error"
    r"|timed? ?out|server error '5\d\d|server unavailable|peer closed|cannot connect|max retries exceeded|: ?$",
    re.IGNORECASE,
)

# A call that we, or a proxy in front of us, could not take, and a look of its at what became of one.
SHUT = re.compile(
    r"50[234](: \{'error': ['\"]50[234]\b|, .*try again\.)"
    r"|Server error '5\d\d [^']*' for url '[^']+/api/v1/execut(e|ions)/",
    re.IGNORECASE | re.DOTALL,
)

WORDLESS = "failed"
"""The error of a failure that its process has no words for."""

# How a call fails in the SDK whose connection to us was refused or cut, at times without a word. So says any other
# request of a reasoner, too.
CUT = re.compile(r"All connection attempts failed|Server disconnected without sending a response\.|", re.IGNORECASE)

# What it makes of our refusing an attempt that has lost its lease: of a memory write only the status, else our words.
REFUSED = re.compile(
    r"Failed to (set|delete)\b.*client error '409 |409[:,] .*no longer holds"
    r"|Approval request failed \(409\).*lease_lost",
    re.IGNORECASE | re.DOTALL,
)

FINISHED = {"reasoner.completed": Verdict.SUCCEEDED, "reasoner.failed": Verdict.FAILED}
GATEWAY = {"statusCode", "body", "headers", "isBase64Encoded"}
STOPPED = "Execution cancelled by upstream client"
"""The error that the SDK logs for an attempt that was stopped, where its callback says `cancelled`."""


class Taken(StrEnum):
    """What became of a call that did not bring the end of the attempt with it.

    `taken`: the process works on it. `full`: it does not, and may be asked again. `unsent`: nothing reached it.
    `unknown`: nobody can tell.
    """

    TAKEN = "taken"
    FULL = "full"
    UNSENT = "unsent"
    UNKNOWN = "unknown"


class Stop(StrEnum):
    """What a process says when it is told to stop an attempt.

    `stopped`: it was running. `idle`: it does not run it. `unable`: it cannot be told. `gone`: nobody is there.
    """

    STOPPED = "stopped"
    IDLE = "idle"
    UNABLE = "unable"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back over HTTP. `status` None: nothing did; `sent`: the request may have arrived.

    `broken`: the answer stopped before its end. `clipped`: it was longer than anybody may answer.
    """

    status: int | None
    body: bytes = b""
    sent: bool = True
    broken: bool = False
    clipped: bool = False
    retry_after_seconds: float | None = None


def fenced(fence: Fence) -> str:
    """The execution as the process knows it: whatever it says of it carries the attempt."""
    return f"{show_execution(fence.execution_id)}~{fence.attempt}"


def headers_of(lease: Lease) -> dict[str, str]:
    """The context that goes along with a call (AgentField's headers)."""
    found = {
        "X-Execution-ID": fenced(Fence(lease.execution_id, lease.attempt)),
        "X-Run-ID": lease.run_id,
        "X-Workflow-ID": lease.run_id,
        "X-Parent-Execution-ID": None if lease.parent_id is None else show_execution(lease.parent_id),
        "X-Session-ID": lease.session_key,
        "X-Actor-ID": lease.actor_key,
    }
    if lease.replay is not None and lease.replay.mode is not ReplayMode.NONE:
        found["X-AgentField-Replay-Source-Run-ID"] = lease.replay.source_run_id
        found["X-AgentField-Replay-Mode"] = lease.replay.mode.value
        if lease.replay.before_id is not None:
            found["X-AgentField-Replay-Before-Execution-ID"] = show_execution(lease.replay.before_id)
    return {name: value for name, value in found.items() if value is not None}


def path_of(lease: Lease) -> str:
    """Where at its process the reasoner or skill is called."""
    return f"/{lease.type}s/{parse(lease.target).reasoner_id}"


def event_of(lease: Lease) -> bytes:
    """The body with which a function that exists only while it is called is called."""
    reasoner = parse(lease.target).reasoner_id
    context = {
        "execution_id": fenced(Fence(lease.execution_id, lease.attempt)),
        "run_id": lease.run_id,
        "workflow_id": lease.run_id,
        "parent_execution_id": None if lease.parent_id is None else show_execution(lease.parent_id),
        "session_id": lease.session_key,
        "actor_id": lease.actor_key,
    }
    fields: dict[str, bytes] = {
        "path": text(f"/execute/{reasoner}"),
        "target": text(reasoner),
        "reasoner": text(reasoner),
        "type": text(lease.type),
        "input": lease.input,
        "execution_context": json.dumps({name: one for name, one in context.items() if one is not None}).encode(),
    }
    if lease.type == "skill":
        fields["skill"] = text(reasoner)
    return b"{" + b",".join(text(name) + b":" + raw for name, raw in fields.items()) + b"}"


def judge(fence: Fence, answer: Answer, *, transport: Transport) -> Report | Taken:
    """What an answer means for the attempt.

    4xx is final: the process has refused this input, and would again. 429 and 503 are not about the work. Other 5xx
    are failures of the reasoner, tried again by its policy.
    """
    status = answer.status
    if status is None:
        return Taken.UNKNOWN if answer.sent else Taken.UNSENT
    if status == 202 and transport is Transport.PUSH:
        return Taken.TAKEN
    if status in (429, 503):
        return Taken.FULL
    body = answer.body
    if 200 <= status < 300:
        if answer.clipped:
            return refused(fence, "The result is larger than this server takes.")
        if answer.broken:
            return Taken.UNKNOWN
        if transport is Transport.SERVERLESS:
            status, body = _unwrap(body)
        if 200 <= status < 300:
            return Report(fence=fence, verdict=Verdict.SUCCEEDED, result=_result(body))
    if status == 499:  # it was told to stop
        return Report(fence=fence, verdict=Verdict.CANCELLED)
    return Report(
        fence=fence,
        verdict=Verdict.FAILED,
        error=text(_words(status, body)),
        error_class=f"HTTP {status}",
        retryable=status >= 500,
        retry_after_seconds=answer.retry_after_seconds,
        http_status=status if 400 <= status < 600 else None,
    )


def refused(fence: Fence, why: str) -> Report:
    """An attempt whose result cannot be kept has failed, or it would run for ever."""
    return Report(fence=fence, verdict=Verdict.FAILED, error=text(why), error_class="ResultInvalid", retryable=False)


def read_stop(answer: Answer) -> Stop:
    """What a process says to being told to stop an attempt."""
    if answer.status is None:
        return Stop.UNKNOWN
    if answer.status in (404, 405, 501):
        return Stop.UNABLE
    said = _object(answer.body) if 200 <= answer.status < 300 else {}
    if said.get("cancelled") is True:
        return Stop.STOPPED
    return Stop.IDLE if said.get("reason") == "execution_not_active" else Stop.UNKNOWN


def away(report: Report, *, up_seconds: float = math.inf) -> bool:
    """Whether an attempt failed because its process could not reach us: our failure, and not its reasoner's.

    `up_seconds`: how long we have been there. Words that do not name us mean us only when we were away just now.
    """
    if report.verdict is not Verdict.FAILED or report.error is None:
        return False
    words = error_text(report.error)
    if up_seconds < BACK_SECONDS and CUT.fullmatch(words) is not None:
        return True
    return SHUT.match(words) is not None or (OUR_DOOR.match(words) is not None and AWAY.search(words) is not None)


def worded(report: Report) -> Report:
    """A failure that somebody can read about, whatever its process has said."""
    return replace(report, error=text(WORDLESS)) if report.error == b'""' else report


def counts_late(report: Report) -> bool:
    """Whether this end of an attempt that has lost its lease is its own, and not what losing it has brought about.

    A connection that broke meanwhile is taken for one to us: the work is there to be run again in any case.
    """
    if report.verdict is not Verdict.FAILED or report.error is None:
        return report.verdict in (Verdict.SUCCEEDED, Verdict.FAILED)
    return not away(report, up_seconds=0.0) and REFUSED.match(error_text(report.error)) is None


def finished_in(lines: bytes) -> Iterator[tuple[Fence, Report | None]]:
    """The attempts that a process's own log says are over, with how they went.

    None: it is over, but its result was too long for the log. Lines that are cut or say something else are left out.
    """
    for raw in io.BytesIO(lines):  # one after the other: millions of short ones at once would fill the memory
        if b"reasoner." not in raw or len(raw) > LOG_LINE_BYTES_MAX:
            continue
        said = _object(raw).get("line")
        if not isinstance(said, str) or '"reasoner.' not in said:
            continue
        record = _object(said)
        event, fence = record.get("event_type"), _fence(record.get("execution_id"))
        if isinstance(event, str) and event in FINISHED and fence is not None:
            yield fence, report_of(fence, FINISHED[event], record.get("attributes"))


def report_of(fence: Fence, verdict: Verdict, attributes: object) -> Report | None:
    """How an attempt went, by the attributes of the line that its process logged at its end."""
    if not isinstance(attributes, dict) or attributes.get("_elided") is not None:
        return None
    if verdict is Verdict.FAILED:
        error = attributes.get("error")
        if attributes.get("status") == "cancelled":  # by its shutdown: it says so of nothing else
            return Report(fence=fence, verdict=Verdict.RELEASED)
        if error == STOPPED:
            return Report(fence=fence, verdict=Verdict.CANCELLED)
        return Report(fence=fence, verdict=verdict, error=text(printable(str(error or ""))))
    result = attributes.get("result")
    if isinstance(result, str) and ELIDED.fullmatch(result):
        return None
    try:
        return Report(fence=fence, verdict=verdict, result=json.dumps(result, allow_nan=False).encode())
    except ValueError:  # NaN, which is no JSON
        return None


def _fence(id_: object) -> Fence | None:
    if not isinstance(id_, str) or not is_execution(id_):
        return None
    try:
        execution_id, attempt = read_fenced(id_, where="execution_id")
    except Invalid:
        return None
    return None if attempt is None else Fence(execution_id, attempt)


def _result(body: bytes) -> bytes:
    """The result without what the SDK adds about the tokens it used."""
    if not body.strip():
        return b"null"
    if USAGE in body:
        said = _object(body)
        if said.pop(USAGE.decode(), None) is not None:
            return json.dumps(said).encode()
    return body


def _unwrap(body: bytes) -> tuple[int, bytes]:
    """Functions behind a gateway answer `{statusCode, body}`; without the gateway we see both."""
    said = _object(body)
    code = said.get("statusCode")
    if type(code) is not int or not 100 <= code < 600 or not set(said) <= GATEWAY:
        return 200, body
    inner = said.get("body")
    return code, inner.encode() if isinstance(inner, str) and _is_json(inner) else json.dumps(inner).encode()


def _words(status: int, body: bytes) -> str:
    """The error in the process's own words, wherever it put them."""
    said = _object(body)
    for name in ("detail", "message", "error"):
        if isinstance(said.get(name), str) and said[name]:
            return printable(said[name])
    if said:
        return printable(json.dumps(said))
    return f"The node answered {status}."


def printable(words: str) -> str:
    """As much of these words as is kept, without what is no Unicode (half a surrogate pair)."""
    return words[:ERROR_CHARS_MAX].encode("utf-8", "replace").decode()


def _is_json(words: str) -> bool:
    try:
        json.loads(words)
    except ValueError:
        return False
    return True


def _object(raw: bytes | str) -> dict[str, Any]:
    try:
        said = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
