"""`controlplane executions …`: list, show, explain, attempts, cancel, pause, resume, wait, restart, retry."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, Members, members, text_of
from controlplane.cli.failure import ExitCode, Failure
from controlplane.cli.follow import Seen, follow, progress_line, report
from controlplane.cli.next_step import as_command
from controlplane.cli.payload import read_input
from controlplane.domain.ids import read_fenced
from controlplane.errors import Invalid

ATTEMPTS_PAGE = 200
DEADLINES = ("timeout_seconds", "schedule_to_start_seconds", "total_seconds", "heartbeat_seconds")


class Row(msgspec.Struct):
    """An execution as one line of a list."""

    execution_id: str
    status: str
    target: str
    run_id: str
    attempt: int
    created_at: str
    duration_ms: int | None = None
    status_reason: str | None = None


class Listing(msgspec.Struct):
    items: list[Row]
    next_cursor: str | None = None


class Event(msgspec.Struct):
    type: str
    at: str
    attempt: int | None = None
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class Line(msgspec.Struct):
    at: str
    level: str
    message: str
    attempt: int | None = None


class Try(msgspec.Struct):
    attempt: int
    outcome: str
    http_status: int | None = None
    error: str | None = None


class Delivery(msgspec.Struct):
    delivery_id: str
    event: str
    url: str
    state: str
    attempts: list[Try]
    next_attempt_at: str | None = None
    held_by: str | None = None


class Deliveries(msgspec.Struct):
    items: list[msgspec.Raw]


class Explained(msgspec.Struct):
    """Why an execution stands where it stands."""

    sentence: str
    code: str
    status: str
    since: str | None = None
    fix: str | None = None
    facts: dict[str, msgspec.Raw] = {}


class Attempt(msgspec.Struct):
    """A try at an execution as one line of a list. `error` may be any JSON."""

    attempt: int
    ended: str
    started_at: str
    node_id: str | None = None
    ended_at: str | None = None
    duration_ms: int | None = None
    reason: str | None = None
    error: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    error_class: str | None = None
    traceback: str | None = None


class Rule(msgspec.Struct):
    """When a failure is tried again."""

    max: int
    delay_seconds: float = 0.0
    factor: float = 1.0
    cap_seconds: float = 0.0
    fatal_errors: list[str] = []
    retry_errors: list[str] = []


def listing(client: Client, query: Mapping[str, str | int | float | list[str] | None], *, as_json: bool) -> None:
    """Print one page, newest first."""
    body = client.get(f"{PREFIX}/executions", query)
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No executions." if page.next_cursor is None else "None among the latest.")
    else:
        _table(page.items)
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def _table(rows: list[Row]) -> None:
    output.table(
        ("EXECUTION", "STATUS", "REASON", "TARGET", "ATTEMPT", "CREATED", "TOOK", "RUN"),
        (
            (
                row.execution_id,
                row.status,
                row.status_reason,
                row.target,
                row.attempt,
                output.moment(row.created_at),
                _took(row.duration_ms),
                row.run_id,
            )
            for row in rows
        ),
    )


def show(client: Client, execution_id: str, *, events: bool, logs: bool, deliveries: bool, as_json: bool) -> None:
    """Print one execution, and what is asked for with it."""
    path = f"{PREFIX}/executions/{_id(execution_id)}"
    body = client.get(path, about=execution_id)
    more: dict[str, list[msgspec.Raw]] = {}
    if events:
        more["events"] = list(client.pages(f"{path}/events", "cursor", about=execution_id))
    if logs:
        more["logs"] = list(client.pages(f"{path}/logs", "after", about=execution_id))
    if deliveries:
        sent = client.get(f"{path}/deliveries", about=execution_id)
        more["deliveries"] = msgspec.json.decode(sent, type=Deliveries).items
    if as_json:
        output.data(body if not more else msgspec.json.encode(members(body) | more))
        return
    _summary(Seen.of(body))
    _sections(more)


def explain(client: Client, execution_id: str, *, command: Callable[[str], str], as_json: bool) -> None:
    """Print why it waits, the facts behind it and, as talk, the next step: a `command`, where there is one."""
    body = client.get(f"{PREFIX}/executions/{_id(execution_id)}/explain", about=execution_id)
    if as_json:
        output.data(body)
        return
    found = msgspec.json.decode(body, type=Explained)
    output.data(output.plain(found.sentence))
    pairs: list[tuple[str, object]] = [("status", found.status), ("code", found.code), ("since", found.since)]
    pairs += [(name, bytes(value).decode().strip('"')) for name, value in found.facts.items()]
    output.facts(pairs)
    if found.fix is not None:
        output.say(f"Next: {as_command(found.fix, command)}")


def attempts(client: Client, execution_id: str, *, tracebacks: bool, as_json: bool) -> None:
    """Print every attempt, the newest last."""
    path = f"{PREFIX}/executions/{_id(execution_id)}/attempts"
    items = list(client.pages(path, "cursor", about=execution_id, page=ATTEMPTS_PAGE))
    if as_json:
        output.data(msgspec.json.encode({"items": items}))
        return
    if not items:
        output.say("No attempt has begun yet; `controlplane executions explain` says why.")
        return
    found = [msgspec.json.decode(raw, type=Attempt) for raw in items]
    output.table(
        ("ATTEMPT", "ENDED", "NODE", "STARTED", "TOOK", "REASON", "CLASS", "ERROR"),
        (
            (
                one.attempt,
                one.ended,
                one.node_id,
                output.moment(one.started_at),
                _took(one.duration_ms),
                one.reason,
                one.error_class,
                bytes(one.error).decode().strip('"'),
            )
            for one in found
        ),
    )
    for one in found:
        if tracebacks and one.traceback:
            output.data(output.plain(f"\nattempt {one.attempt}\n{one.traceback.rstrip()}"))


def pause(client: Client, execution_id: str, *, reason: str | None, as_json: bool) -> None:
    """Hold it back: what runs of it goes on, what would run next waits."""
    body = client.post(
        f"{PREFIX}/executions/{_id(execution_id)}/pause", orjson.dumps({"reason": reason}), about=execution_id
    )
    if as_json:
        output.data(body)
        return
    output.data(f"{execution_id} paused")
    if text_of(members(body), "previous_status") == "running":
        output.say("The attempt that runs goes on to its end; what comes after it waits.")


def resume(client: Client, execution_id: str, *, as_json: bool) -> None:
    """Let it go on."""
    body = client.post(f"{PREFIX}/executions/{_id(execution_id)}/resume", about=execution_id)
    output.data(body if as_json else f"{execution_id} resumed")


def cancel(client: Client, execution_id: str, *, reason: str | None, as_json: bool) -> None:
    """Cancel it: from now on it can only end as cancelled."""
    body = client.post(
        f"{PREFIX}/executions/{_id(execution_id)}/cancel",
        orjson.dumps({"reason": reason}),
        about=execution_id,
    )
    if as_json:
        output.data(body)
        return
    settled = msgspec.json.decode(members(body)["settled"], type=bool)
    output.data(f"{execution_id} cancelled")
    if not settled:
        output.say("The node that runs it has been told to stop.")


def restart(
    client: Client,
    execution_id: str,
    *,
    scope: str,
    reuse: str,
    fork: bool,
    reason: str | None,
    input_given: str | None,
    again: str,
    as_json: bool,
) -> None:
    """Begin it again in a new run, and print the id of the new execution."""
    said: dict[str, object] = {"scope": scope, "reuse": reuse, "fork": fork, "reason": reason}
    if input_given is not None:
        said["input"] = orjson.Fragment(read_input(input_given, []))
    body = client.post(
        f"{PREFIX}/executions/{_id(execution_id)}/restart",
        orjson.dumps(said),
        headers={"Idempotency-Key": uuid.uuid4().hex},
        about=execution_id,
    )
    if as_json:
        output.data(body)
        return
    found = members(body)
    new_id = text_of(found, "execution_id")
    output.data(str(new_id))
    output.say(f"A new run of {text_of(found, 'target')}: {text_of(found, 'run_id')}. Its end: {again} {new_id}")


def retry(
    client: Client,
    execution_id: str,
    *,
    reuse: str,
    reason: str | None,
    delay_seconds: float | None,
    again: str,
    as_json: bool,
) -> None:
    """Ask it once more in its run, and print the id of the new execution."""
    said: dict[str, object] = {"reuse": reuse, "reason": reason, "delay_seconds": delay_seconds}
    body = client.post(
        f"{PREFIX}/executions/{_id(execution_id)}/retry",
        orjson.dumps(said),
        headers={"Idempotency-Key": uuid.uuid4().hex},
        about=execution_id,
    )
    if as_json:
        output.data(body)
        return
    found = members(body)
    new_id = text_of(found, "execution_id")
    output.data(str(new_id))
    output.say(f"{text_of(found, 'target')} once more, in {text_of(found, 'run_id')}. Its end: {again} {new_id}")


def wait(client: Client, execution_id: str, *, timeout_seconds: float | None, again: str, as_json: bool) -> None:
    """Wait for its end and print the result."""
    seen = follow(client, _id(execution_id), timeout_seconds=timeout_seconds, again=f"{again} {execution_id}")
    report(seen, execution_id, as_json=as_json)


def _id(text: str) -> str:
    """The id, which has nothing in it that a path could be led astray by. Raises Failure."""
    try:
        read_fenced(text, where="EXECUTION")
    except Invalid as error:
        raise Failure(f"{text!r}: {error.detail}", code=ExitCode.USAGE) from None
    return text


def _summary(seen: Seen) -> None:
    names = ("execution_id", "target", "status", "status_reason", "run_id", "parent_execution_id")
    times = ("created_at", "available_at", "started_at", "completed_at")
    found = seen.members
    pairs: list[tuple[str, object]] = [(name, text_of(found, name)) for name in names]
    pairs += [(name, bytes(found[name]).decode()) for name in ("attempt", "failures") if name in found]
    pairs += [(name, text_of(found, name)) for name in times]
    if "duration_ms" in found:
        pairs.append(("took", _took(msgspec.json.decode(found["duration_ms"], type=int))))
    pairs += _policy(found)
    pairs.append(("progress", progress_line(found)))
    pairs.append(("error", text_of(found, "error_message")))
    pairs += [(name, bytes(found[name]).decode()) for name in ("error_details", "result") if name in found]
    output.facts(pairs)


def _policy(found: Members) -> list[tuple[str, object]]:
    """When it is tried again and how long it may take."""
    if "retry" not in found:  # an older server
        return []
    rule = msgspec.json.decode(found["retry"], type=Rule)
    used = msgspec.json.decode(found.get("retries_used", msgspec.Raw(b"0")), type=int)
    said = f"{used} of {rule.max}"
    if rule.max:
        grows = f", times {rule.factor:g} up to {rule.cap_seconds:g} s" if rule.factor > 1 else ""
        said += f", after {rule.delay_seconds:g} s{grows}"
    pairs: list[tuple[str, object]] = [("retries_used", said)]
    pairs += [(name, " ".join(names)) for name, names in (("fatal_errors", rule.fatal_errors),) if names]
    pairs += [(name, " ".join(names)) for name, names in (("retry_errors", rule.retry_errors),) if names]
    pairs.append(("next_retry_at", text_of(found, "next_retry_at")))
    pairs += [(name, bytes(found[name]).decode()) for name in DEADLINES if name in found]
    return [*pairs, *((name, text_of(found, name)) for name in ("deadline_at", "on_parent_end"))]


def _sections(more: dict[str, list[msgspec.Raw]]) -> None:
    if "events" in more:
        output.data("\nevents")
        found = [msgspec.json.decode(raw, type=Event) for raw in more["events"]]
        rows = [(event.at, event.type, event.attempt, bytes(event.data).decode()) for event in found]
        output.table(("AT", "EVENT", "ATTEMPT", "DATA"), rows)
    if "logs" in more:
        output.data("\nlogs")
        for raw in more["logs"]:
            line = msgspec.json.decode(raw, type=Line)
            output.data(output.plain(f"{line.at} {line.level:<7} [{line.attempt or '-'}] {line.message}"))
    if "deliveries" in more:
        output.data("\ndeliveries")
        sent = [msgspec.json.decode(raw, type=Delivery) for raw in more["deliveries"]]
        output.table(
            ("DELIVERY", "EVENT", "STATE", "TRIES", "LAST", "NEXT", "URL"),
            [
                (one.delivery_id, one.event, one.state, len(one.attempts), _last(one), _next(one), one.url)
                for one in sent
            ],
        )


def _next(delivery: Delivery) -> str | None:
    if delivery.held_by is None:
        return delivery.next_attempt_at
    return f"{delivery.next_attempt_at} ({delivery.held_by})"


def _last(delivery: Delivery) -> str | None:
    if not delivery.attempts:
        return None
    last = delivery.attempts[-1]
    return " ".join(str(part) for part in (last.outcome, last.http_status, last.error) if part is not None)


def _took(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    seconds = milliseconds / 1000
    if seconds < 120:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
