"""Log lines, progress and notes on their way to the control plane. Nothing here ever blocks or fails its caller."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from controlplane_sdk import strict_json
from controlplane_sdk.context import Fence
from controlplane_sdk.errors import NotJson, ServerError, ServerUnavailable, ServerUnreachable
from controlplane_sdk.transport import Backoff, Reply

ENTRIES_MAX = 500
BYTES_MAX = 768 * 1024
HELD_MAX = 10_000
MESSAGE_CHARACTERS = 16_000
NUMBER_MAX = 2**53
ATTRIBUTES_BYTES = 64 * 1024

_log = logging.getLogger("controlplane_sdk")

_Lines = Sequence[tuple[Fence, bytes]]
Post = Callable[[str, bytes, dict[str, str]], Awaitable[Reply]]


@dataclass(slots=True)
class _Batch:
    entries: list[tuple[Fence, bytes]] = field(default_factory=list)
    progress: list[tuple[Fence, bytes]] = field(default_factory=list)
    notes: list[tuple[Fence, bytes]] = field(default_factory=list)

    def fences(self) -> list[Fence]:
        return [fence for fence, _ in (*self.entries, *self.progress, *self.notes)]


class Trace:
    """An outbox with a limit. While one request is in flight the next batch gathers; under pressure the oldest go.

    `post(path, body, headers)` sends to the open session where the path begins with `{session}`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, post: Post, on_lost: Callable[[Fence], None]) -> None:
        self._loop = loop
        self._post = post
        self._on_lost = on_lost
        self._home_thread = threading.get_ident()
        self._lock = threading.Lock()
        self._entries: deque[tuple[Fence, bytes]] = deque()
        self._progress: dict[Fence, bytes] = {}
        self._notes: deque[tuple[Fence, bytes]] = deque()
        self._dropped: Counter[Fence] = Counter()
        self._unsent: Counter[Fence] = Counter()
        self._flusher: asyncio.Task[None] | None = None
        self._settled = asyncio.Condition()

    def log(
        self,
        fence: Fence,
        level: str,
        message: str,
        *,
        event_type: str | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        """Ship one log line. May be called from any thread."""
        entry: dict[str, Any] = {"level": level, "message": strict_json.printable(message, MESSAGE_CHARACTERS)}
        entry |= {"execution_id": fence.execution_id, "attempt": fence.attempt, "ts": _now(), "source": "sdk.python"}
        if event_type:
            entry["event_type"] = event_type
        if attributes:
            entry["attributes"] = sendable(attributes)
        self._hold(self._entries, fence, strict_json.encode(entry))

    def progress(self, fence: Fence, done: float, total: float | None, message: str | None) -> None:
        """Ship how far the execution is; only the newest waits. May be called from any thread."""
        if not 0 <= done < NUMBER_MAX or not 0 <= (total or 0) < NUMBER_MAX:
            return  # NaN is refused here too: it compares with nothing
        body: dict[str, Any] = {"execution_id": fence.execution_id, "attempt": fence.attempt}
        if total is None and isinstance(done, float):
            body["fraction"] = min(max(done, 0.0), 1.0)
        else:
            body["done"] = int(done)
            if total is not None:
                body["total"] = int(total)
        if message is not None:
            body["message"] = strict_json.printable(message, MESSAGE_CHARACTERS)
        with self._lock:
            self._unsent[fence] += fence not in self._progress
            self._progress[fence] = strict_json.encode(body)
        self._wake()

    def note(self, fence: Fence, node_id: str, message: str, tags: list[str]) -> None:
        """Ship a note. May be called from any thread."""
        body = {
            "message": strict_json.printable(message, MESSAGE_CHARACTERS),
            "tags": [strict_json.printable(str(tag), 200) for tag in tags],
            "timestamp": time.time(),
            "agent_node_id": node_id,
        }
        self._hold(self._notes, fence, strict_json.encode(body))

    def holds(self, fence: Fence) -> bool:
        """Whether something of this attempt is waiting to be sent."""
        return fence in self._unsent

    async def settled(self, fence: Fence | None = None) -> None:
        """Return when nothing of this attempt (of any, without one) is waiting to be sent."""
        async with self._settled:
            await self._settled.wait_for(lambda: not (self._unsent[fence] if fence else self._unsent))

    def close(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()

    def _hold(self, queue: deque[tuple[Fence, bytes]], fence: Fence, body: bytes) -> None:
        with self._lock:
            if len(queue) >= HELD_MAX:
                oldest, _ = queue.popleft()
                self._dropped[oldest] += 1
                self._count_down([oldest])
            queue.append((fence, body))
            self._unsent[fence] += 1
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: the node is gone, and with it the way to ship.
            if threading.get_ident() == self._home_thread:
                self._start()
            else:
                self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        if self._flusher is None or self._flusher.done():
            self._flusher = self._loop.create_task(self._flush(), name="controlplane-trace")

    async def _flush(self) -> None:
        while (batch := self._take()) is not None:
            await self._ship(batch)
            with self._lock:
                self._count_down(batch.fences())
            async with self._settled:
                self._settled.notify_all()

    def _take(self) -> _Batch | None:
        batch = _Batch()
        with self._lock:
            while self._dropped and len(batch.entries) < ENTRIES_MAX:
                fence, count = self._dropped.popitem()
                batch.entries.append((fence, _left_out(fence, count)))
                self._unsent[fence] += 1
            size = 0
            while self._entries and len(batch.entries) < ENTRIES_MAX and size < BYTES_MAX:
                size += len(self._entries[0][1])
                batch.entries.append(self._entries.popleft())
            while self._progress and len(batch.entries) + len(batch.progress) < ENTRIES_MAX:
                fence = next(iter(self._progress))
                batch.progress.append((fence, self._progress.pop(fence)))
            while self._notes and len(batch.notes) < ENTRIES_MAX:
                batch.notes.append(self._notes.popleft())
        return batch if batch.entries or batch.progress or batch.notes else None

    async def _ship(self, batch: _Batch) -> None:
        if batch.entries or batch.progress:
            await self._ship_lines(batch.entries, batch.progress)
        for fence, note in batch.notes:
            reply = await self._persist("/executions/note", note, {"X-Execution-ID": str(fence)})
            if reply is not None and reply.code == "lease_lost":
                self._on_lost(fence)

    async def _ship_lines(self, entries: _Lines, progress: _Lines) -> None:
        body = b'{"entries":[%b],"progress":[%b]}' % (
            b",".join(entry for _, entry in entries),
            b",".join(entry for _, entry in progress),
        )
        reply = await self._persist("{session}/logs", body, {})
        if reply is None:
            return
        if reply.ok:
            for item in reply.body.get("lost") or []:
                self._on_lost(Fence(str(item["execution_id"]), int(item["attempt"])))
        elif reply.code == "lease_lost":
            for fence, _ in (*entries, *progress):
                self._on_lost(fence)
        elif progress and entries:
            await self._ship_lines(entries, ())
            await self._ship_lines((), progress)
        elif (lines := entries or progress) and len(lines) > 1:
            # One of them cannot be read: halve until it stands alone, and let that one go.
            for half in (lines[: len(lines) // 2], lines[len(lines) // 2 :]):
                await self._ship_lines(*((half, ()) if entries else ((), half)))
        else:
            _log.debug("a log line was refused: %s %s", reply.status, reply.code)

    async def _persist(self, path: str, body: bytes, headers: dict[str, str]) -> Reply | None:
        """Send until it is answered; None where no answer can be hoped for."""
        backoff = Backoff()
        while True:
            try:
                return await self._post(path, body, headers)
            except (ServerUnreachable, ServerUnavailable):
                await asyncio.sleep(backoff.next_seconds())
            except ServerError as error:
                _log.debug("log lines were not taken: %s", error)
                return None

    def _count_down(self, fences: list[Fence]) -> None:
        for fence in fences:
            self._unsent[fence] -= 1
            if self._unsent[fence] <= 0:
                del self._unsent[fence]


def _left_out(fence: Fence, count: int) -> bytes:
    message = f"{count} log lines were left out here: they came faster than they could be sent"
    entry = {"execution_id": fence.execution_id, "attempt": fence.attempt, "ts": _now(), "source": "sdk.python"}
    return strict_json.encode(entry | {"level": "warning", "message": message, "event_type": "log.dropped"})


def sendable(attributes: dict[str, Any]) -> Any:
    """The attributes as JSON can say them; `repr` stands in for what it cannot."""
    try:
        encoded = strict_json.encode(attributes)
    except NotJson:
        encoded = strict_json.encode(
            {strict_json.printable(name, 200): _said(value) for name, value in attributes.items()}
        )
    if len(encoded) > ATTRIBUTES_BYTES:
        return {"left_out": f"attributes of {len(encoded)} bytes"}
    return strict_json.decode(encoded)


def _said(value: object) -> str:
    return strict_json.printable(repr(value), MESSAGE_CHARACTERS)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
