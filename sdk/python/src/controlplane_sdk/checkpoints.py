"""How memory is written: atomic groups, many in one request, and lists that only grow sent as what was added."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from controlplane_sdk import strict_json
from controlplane_sdk.context import Context
from controlplane_sdk.errors import MemoryConflict, RequestRefused
from controlplane_sdk.transport import Backoff, Transport, present
from controlplane_sdk.writes import PATIENCE_SECONDS, Writes

APPEND_MAX = 1_000


class Place(NamedTuple):
    """Where a value is kept. Inside an execution an empty scope id means the execution's own."""

    scope: str
    scope_id: str
    key: str


class Encoded(NamedTuple):
    """A value as JSON, and how many elements it has if it is a list."""

    json: bytes
    elements: int | None


@dataclass(frozen=True, slots=True)
class Committed:
    """What this process last stored under a key, without keeping the value: enough to see that a list only grew."""

    elements: int
    byte_length: int
    digest: bytes
    version: int

    @classmethod
    def of(cls, value: Encoded, version: int) -> Committed | None:
        if value.elements is None:
            return None
        return cls(value.elements, len(value.json), _digest(value.json[:-1]), version)

    def added_by(self, value: Encoded) -> bytes | None:
        """The elements that the value adds to what was stored, as JSON without brackets; None if it is no extension."""
        if value.elements is None or not 0 < value.elements - self.elements <= APPEND_MAX:
            return None
        head, rest = value.json[: self.byte_length - 1], value.json[self.byte_length - 1 : -1]
        if _digest(head) != self.digest:
            return None
        if self.elements == 0:
            return rest
        # Without the comma the last element itself would have changed: [1] is no beginning of [12, 3].
        return rest[1:] if rest.startswith(b",") else None


class Keys:
    """What one execution knows of the keys it writes: who is writing one just now, and what was stored last."""

    def __init__(self) -> None:
        self.committed: dict[Place, Committed] = {}
        self.lengths: dict[Place, int] = {}
        self._locks: dict[Place, asyncio.Lock] = {}

    @asynccontextmanager
    async def writing(self, places: Sequence[Place]) -> AsyncIterator[None]:
        """Writes to one key go one after another, in the order they were called."""
        async with AsyncExitStack() as stack:
            for place in sorted(set(places)):
                await stack.enter_async_context(self._locks.setdefault(place, asyncio.Lock()))
            yield

    def forget(self) -> None:
        self.committed.clear()
        self.lengths.clear()
        self._locks.clear()


class Checkpoints:
    """Writes that return only when they are committed."""

    def __init__(self, transport: Transport) -> None:
        self._writes = Writes(transport, "/memory/write", name="memory")
        self._appending: WeakValueDictionary[Place, asyncio.Lock] = WeakValueDictionary()

    async def put(self, values: Mapping[Place, Encoded], context: Context | None) -> None:
        """Store all of these or none. A list that extends what this execution stored last is sent as what was added.

        Raises: LeaseLost, RequestRefused, ServerUnreachable.
        """
        keys = context.keys if context and context.keys else Keys()
        async with keys.writing(list(values)):
            for place in values:
                keys.lengths.pop(place, None)
            before = {place: keys.committed.pop(place, None) for place in values}
            added = {place: known.added_by(values[place]) if known else None for place, known in before.items()}
            try:
                ops = [_op(place, value, added[place], before[place]) for place, value in values.items()]
                versions = await self._write(ops, context)
                clean = all(
                    added[place] is None or versions[place.key].get("version") == known.version + 1
                    for place, known in before.items()
                    if known
                )
            except RequestRefused as error:
                if error.code not in {"length_mismatch", "not_a_list"}:
                    raise
                clean = False
            if not clean:
                # Somebody else wrote the list in between; what was asked for is the whole value.
                versions = await self._write(
                    [_op(place, value, None, None) for place, value in values.items()], context
                )
            for place, value in values.items():
                version = versions.get(place.key, {}).get("version")
                if version is not None and (stored := Committed.of(value, int(version))):
                    keys.committed[place] = stored

    async def delete(self, place: Place, context: Context | None) -> None:
        """Forget the key; a key that is not there is forgotten already."""
        keys = context.keys if context and context.keys else Keys()
        async with keys.writing([place]):
            keys.committed.pop(place, None)
            keys.lengths.pop(place, None)
            await self._write([_head("delete", place) + b"}"], context)

    async def append(
        self, place: Place, items: Encoded, read_length: Callable[[], Awaitable[int]], context: Context | None
    ) -> int:
        """Add these elements to the end of a list; its new length. Raises: MemoryConflict, and as `put`.

        Every append says how long the list is, else a repeat after a lost answer would add the elements twice.
        """
        keys = context.keys if context and context.keys else Keys()
        backoff = Backoff(first_seconds=0.01, cap_seconds=0.25)
        began = time.monotonic()
        # One at a time in this process, whichever executions they come from: each needs the length that the one before
        # it made, and 30 that race for it take 13 s, 30 in turn take one.
        turn = self._appending.setdefault(place, asyncio.Lock())
        async with keys.writing([place]), turn:
            keys.committed.pop(place, None)
            length = keys.lengths.pop(place, None)
            while True:
                length = await read_length() if length is None else length
                if not items.elements:
                    return length
                op = _head("append", place) + b',"expected_length":%d,"items":%b}' % (length, items.json)
                try:
                    versions = await self._write([op], context)
                except MemoryConflict as error:
                    if error.code != "length_mismatch" or time.monotonic() - began >= PATIENCE_SECONDS:
                        raise
                    # Others append to the same list.
                    found = error.facts.get("length")
                    length = found if isinstance(found, int) else None
                    await asyncio.sleep(backoff.next_seconds())
                else:
                    keys.lengths[place] = int(versions.get(place.key, {}).get("length") or length + items.elements)
                    return keys.lengths[place]

    async def idle(self) -> None:
        await self._writes.idle()

    def close(self) -> None:
        self._writes.close()

    async def _write(self, ops: Sequence[bytes], context: Context | None) -> dict[str, dict[str, Any]]:
        group = b'"ops":[' + b",".join(ops) + b"]}"
        if context is None:
            written = await self._writes.put(b"{" + group)
        else:
            written = await self._writes.put(strict_json.encode(_speaker(context))[:-1] + b"," + group)
        return {item["key"]: item for item in written.get("versions") or []}


def encoded(value: Any) -> Encoded:
    """Raises: NotJson."""
    return Encoded(strict_json.encode(value), len(value) if isinstance(value, list | tuple) else None)


def _op(place: Place, value: Encoded, added: bytes | None, before: Committed | None) -> bytes:
    if added is None or before is None:
        return _head("set", place) + b',"value":%b}' % value.json
    return _head("append", place) + b',"expected_length":%d,"items":[%b]}' % (before.elements, added)


def _head(op: str, place: Place) -> bytes:
    head = {"op": op, "key": place.key, "scope": place.scope} | ({"scope_id": place.scope_id} if place.scope_id else {})
    return strict_json.encode(head)[:-1]


def _speaker(context: Context) -> dict[str, Any]:
    """Who writes, and the ids of its scopes, which the control plane would have to look up."""
    return present(
        {
            "execution_id": context.execution_id,
            "attempt": context.attempt,
            "run_id": context.run_id,
            "session_key": context.session_key,
            "actor_key": context.actor_key,
        }
    )


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
