"""Wait for the end of an execution, through restarts of the server, and say how it ended."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import msgspec
import typer

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, Members, Unreachable, members, text_of
from controlplane.cli.failure import ExitCode, Failure

POLL_SECONDS = 20.0  # below what proxies between here and there usually allow
TERMINAL_POLL_SECONDS = 2.0  # somebody watches: show progress
OUTAGE_SECONDS = 60.0
RETRY_SECONDS = 0.5
SUCCEEDED, FAILED, CANCELLED, TIMEOUT = "succeeded", "failed", "cancelled", "timeout"
FINAL = frozenset({SUCCEEDED, FAILED, CANCELLED, TIMEOUT})


class Progress(msgspec.Struct):
    done: float | None = None
    total: float | None = None
    fraction: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An execution as the server shows it."""

    body: bytes
    members: Members
    status: str

    @classmethod
    def of(cls, body: bytes) -> Seen:
        found = members(body)
        return cls(body=body, members=found, status=text_of(found, "status") or "unknown")


def follow(client: Client, execution_id: str, *, timeout_seconds: float | None, again: str) -> Seen:
    """The execution once it has ended. `again` is the command that waits anew, for who leaves before.

    Raises Failure when the time is over or the server stays away; Exit 130 after Ctrl-C. The execution goes on.
    """
    try:
        return _until_final(client, execution_id, timeout_seconds, again)
    except KeyboardInterrupt:
        output.say(f"\n{execution_id} goes on. Wait for it again: {again}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def report(seen: Seen, execution_id: str, *, as_json: bool) -> None:
    """Print the result, or all of the execution; raises Failure when it did not succeed."""
    if as_json:
        output.data(seen.body)
    elif seen.status == SUCCEEDED:
        output.data(bytes(seen.members.get("result", msgspec.Raw(b"null"))))
    if seen.status == SUCCEEDED:
        return
    reason = text_of(seen.members, "error_message") or text_of(seen.members, "status_reason")
    because = f": {' '.join(reason.split())}" if reason and reason != seen.status else ""
    ended, code = {
        CANCELLED: ("was cancelled", ExitCode.CANCELLED),
        TIMEOUT: ("ran out of its time", ExitCode.EXECUTION_FAILED),
    }.get(seen.status, ("failed", ExitCode.EXECUTION_FAILED))
    raise Failure(
        f"{execution_id} {ended}{because.rstrip('.')}.",
        fix=f"See `controlplane executions show {execution_id} --events --logs`.",
        code=code,
    )


def progress_line(found: Members) -> str | None:
    """How far it says it is, in one line."""
    raw = found.get("progress")
    if raw is None:
        return None
    progress = msgspec.json.decode(raw, type=Progress)
    parts: list[str] = []
    if progress.done is not None:
        parts.append(f"{progress.done:g}" + (f"/{progress.total:g}" if progress.total is not None else ""))
    elif progress.fraction is not None:
        parts.append(f"{progress.fraction:.0%}")
    if progress.message:
        parts.append(progress.message)
    return " ".join(parts) or None


def _until_final(client: Client, execution_id: str, timeout_seconds: float | None, again: str) -> Seen:
    watched = sys.stderr.isatty()
    patience = TERMINAL_POLL_SECONDS if watched else POLL_SECONDS
    until = float("inf") if timeout_seconds is None else time.monotonic() + timeout_seconds
    lost_at: float | None = None
    said: str | None = None
    while True:
        left = max(0.0, until - time.monotonic())
        wait = round(min(patience, left), 3)
        try:
            body = client.get(
                f"{PREFIX}/executions/{execution_id}", {"wait_seconds": wait}, about=execution_id, wait_seconds=wait
            )
        except Unreachable as error:
            lost_at = _outage(error, lost_at, execution_id, again)
            time.sleep(min(RETRY_SECONDS, left) if left else 0)
        else:
            lost_at = None
            seen = Seen.of(body)
            if seen.status in FINAL:
                return seen
            line = " ".join(filter(None, (seen.status, progress_line(seen.members))))
            if watched and line != said:
                output.say(f"{execution_id} {line}")
                said = line
        if time.monotonic() >= until:
            raise Failure(
                f"{execution_id} has not ended within {timeout_seconds:g} s; it goes on.",
                fix=f"Wait for it again: {again}",
                code=ExitCode.WAIT_TIMED_OUT,
            )


def _outage(error: Unreachable, lost_at: float | None, execution_id: str, again: str) -> float:
    """When the server was first out of reach. Raises Unreachable when that is too long ago."""
    now = time.monotonic()
    if lost_at is None:
        output.say(f"{error.what} Trying again for {OUTAGE_SECONDS:g} s; {execution_id} is not lost.")
        return now
    if now - lost_at > OUTAGE_SECONDS:
        raise Unreachable(f"{error.what} {execution_id} is not lost.", fix=f"Wait for it again: {again}") from error
    return lost_at
