"""Entrance: whom a key lets in, remembered for a moment.

A key is looked up once and then believed for FRESH_SECONDS; a hint makes every replica look again at once when one is
made or revoked. A request whose key is known costs one hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from uuid import UUID

from controlplane.api.doors import KEYS_TOPIC
from controlplane.api.guesses import Guesses
from controlplane.domain.ids import bucket_of
from controlplane.domain.key import ANYBODY, STARTER, Caller, KeyId, KeyState, Known
from controlplane.domain.placement import Placement, by_bucket
from controlplane.errors import DatabaseUnavailable, Unauthorized
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Pool, persist
from controlplane.reads import keys
from controlplane.security.keys import digest, id_in, is_ticket, same
from controlplane.stages import issue_key, ticket
from controlplane.stages.ticket import Redeemed

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
"""How long a key is believed without another look, also after it was revoked elsewhere and the hint was lost."""
STALE_SECONDS = 60.0
"""How long it is believed while the database is out of reach, without which nobody can do anything anyway."""
LOOK_PATIENCE_SECONDS = 1.0
USED_EVERY_SECONDS = 60.0
"""How often it is written, at most, that a key was used."""
KNOWN_MAX = 10_000
LOOKS_MAX = 2
"""Look-ups at once: whoever tries keys that there are not must not hold every connection."""
NEW_TICKET = "Ask for a new one: POST /api/v1/tickets."
SEND_IT = "Send X-API-Key or Authorization: Bearer."
FIX_OF = {
    KeyState.EXPIRED: "This key has expired; make a new one: controlplane keys create.",
    KeyState.REVOKED: "This key is revoked; make a new one: controlplane keys create.",
}


class Entry:
    """A key that was looked up, and until when that holds."""

    __slots__ = ("ends_at", "known", "looked_at", "used_at")

    def __init__(self, known: Known) -> None:
        self.known = known
        self.looked_at = time.monotonic()
        self.ends_at = float("inf") if known.seconds_left is None else self.looked_at + known.seconds_left
        self.used_at = float("-inf")

    @property
    def live(self) -> bool:
        return self.known.state is KeyState.ACTIVE and time.monotonic() < self.ends_at


class Entrance:
    """`api_key`: the key that the server was started with. `wrong_keys_per_minute`: of one address."""

    def __init__(
        self,
        pool: Pool,
        hints: Hints,
        placement: Placement,
        *,
        api_key: str | None,
        wrong_keys_per_minute: int,
    ) -> None:
        self._pool = pool
        self._hints = hints
        self._placement = placement
        self._guesses = Guesses(per_minute=wrong_keys_per_minute)
        self._met: OrderedDict[bytes, None] = OrderedDict()
        self._starters: OrderedDict[str, None] = OrderedDict()
        self._starter = None if api_key is None else digest(api_key.encode())
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._used: set[KeyId] = set()
        self._looks = asyncio.Semaphore(LOOKS_MAX)
        self._streams: dict[KeyId | None, set[asyncio.Event]] = {}
        self.closed = api_key is not None

    async def begin(self) -> None:
        """Look whether there is a key; said loudly when there is none. Raises: DatabaseUnavailable."""
        await self._look_for_any()
        if not self.closed:
            log.warning(
                "server.open",
                extra={
                    "why": "There is no API key: whoever reaches this machine's loopback address may do everything.",
                    "fix": "Make a key (controlplane keys create) or set CONTROLPLANE_API_KEY.",
                },
            )

    async def admit(self, said: bytes, *, host: str) -> Caller | None:
        """Who comes with this text from this address; None for nobody in particular, while there is no key at all.

        A key that is in use here costs no look and is let in however many wrong ones come from its address. One that
        is not waits its turn with them, a few seconds at most.
        Raises: Unauthorized, RateLimited, DatabaseUnavailable.
        """
        if not said:
            if self.closed:
                raise Unauthorized(fix=SEND_IT)
            return None
        mark = digest(said)
        if self._starter is not None and same(mark, self._starter):
            self._meet_starter(host)
            return STARTER
        entry = await self._find(id_in(said.decode("latin-1")), mark, host)
        if entry is None:
            if self.closed:
                raise Unauthorized(fix=SEND_IT)
            return None
        if not entry.live:
            self._guesses.wrong()
            state = entry.known.state
            raise Unauthorized(fix=FIX_OF[KeyState.EXPIRED if state is KeyState.ACTIVE else state])
        self._use(entry)
        return entry.known.caller

    async def readmit(self, id_: KeyId | None, mark: bytes, *, host: str) -> Caller | None:
        """Who has come before with the key of this id and hash; None where it lets nobody in any more.

        `id_`: None for the key that the server was started with. Raises: RateLimited, DatabaseUnavailable.
        """
        if id_ is None:
            return STARTER if self._starter is not None and same(mark, self._starter) else None
        entry = await self._find(id_, mark, host)
        if entry is None or not entry.live:
            return None
        self._use(entry)
        return entry.known.caller

    async def redeem(self, text: str, path: str, *, host: str) -> Caller:
        """Who asked for this ticket, once. Raises: Unauthorized, RateLimited, DatabaseUnavailable."""
        self._guesses.begin(host)
        found = await self._redeemed(text, path)
        if found is None:
            self._guesses.wrong()
            raise Unauthorized("This ticket was used, is over, or is for another path.", fix=NEW_TICKET)
        self._guesses.right(host)
        if found.key_id is None:
            if self._starter is not None:
                return STARTER
            if self.closed:
                raise Unauthorized(fix=NEW_TICKET)
            return ANYBODY
        known = await persist(self._pool, partial(keys.known, id_=found.key_id), seconds=LOOK_PATIENCE_SECONDS)
        if known is None or known.state is not KeyState.ACTIVE:
            raise Unauthorized("The key of this ticket is over.", fix=NEW_TICKET)
        return known.caller

    @contextlib.contextmanager
    def streaming(self, caller: Caller) -> Iterator[asyncio.Event]:
        """Set when nobody is let in any more as this caller was, for answers that would otherwise go on for ever."""
        gone = asyncio.Event()
        self._streams.setdefault(caller.key_id, set()).add(gone)
        try:
            yield gone
        finally:
            self._streams[caller.key_id].discard(gone)
            if not self._streams[caller.key_id]:
                del self._streams[caller.key_id]

    def changed(self) -> None:
        """A key was made, replaced or revoked by this process: every replica shall look again."""
        self._entries.clear()
        self.closed = True
        self._hints.tell(KEYS_TOPIC)

    async def run(self) -> None:
        """Hear of other replicas' changes, end the streams of keys that are over, write which were used."""
        with self._hints.waiter(KEYS_TOPIC) as hint:
            while True:
                if await hint.wait(FRESH_SECONDS):
                    self._outdate()
                with contextlib.suppress(DatabaseUnavailable):  # said by `persist`
                    await self._look_for_any()
                    await self._end_streams()
                    await self.write_used()

    async def write_used(self) -> None:
        """Say when keys were last used: late, together, and at most once a minute for each."""
        used, self._used = self._used, set()
        for bucket, part in by_bucket(used, _itself):
            write = partial(issue_key.touch, bucket=bucket, ids=part, older_than_seconds=USED_EVERY_SECONDS / 2)
            await persist(self._pool, write, seconds=LOOK_PATIENCE_SECONDS)

    async def _redeemed(self, text: str, path: str) -> Redeemed | None:
        if not is_ticket(text):
            return None
        use = partial(ticket.redeem, ticket_hash=digest(text.encode()), path=path)
        async with self._looks:
            return await persist(self._pool, use, seconds=LOOK_PATIENCE_SECONDS)

    def _use(self, entry: Entry) -> None:
        now = time.monotonic()
        if now - entry.used_at > USED_EVERY_SECONDS:
            entry.used_at = now
            self._used.add(entry.known.id)

    async def _find(self, id_: KeyId | None, mark: bytes, host: str) -> Entry | None:
        """The key of this text, looked up unless that was done a moment ago. Where nobody needs one none is guessed.

        Raises: RateLimited, DatabaseUnavailable.
        """
        unknown = self.closed and mark not in self._met
        if unknown:
            self._guesses.begin(host)
        entry = self._entries.get(mark)
        if entry is None or time.monotonic() - entry.looked_at > FRESH_SECONDS:
            entry = await self._look(id_, mark)
        if entry is None:
            self._guesses.wrong()
        elif unknown:
            self._guesses.right(host)
            self._met[mark] = None
            if len(self._met) > KNOWN_MAX:
                self._met.popitem(last=False)
        return entry

    def _meet_starter(self, host: str) -> None:
        """Where it has come from before it is in use; from elsewhere it may have been guessed, as any text.

        Raises: RateLimited.
        """
        if host not in self._starters:
            self._guesses.begin(host)
            self._guesses.right(host)
            self._starters[host] = None
            if len(self._starters) > KNOWN_MAX:
                self._starters.popitem(last=False)

    def _outdate(self) -> None:
        """Look at every key again before it is believed once more, unless the database is out of reach."""
        before = time.monotonic() - 2 * FRESH_SECONDS
        for entry in self._entries.values():
            entry.looked_at = min(entry.looked_at, before)

    async def _look_for_any(self) -> None:
        if not self.closed:
            look = partial(keys.any_key, buckets=range(self._placement.hashed))
            self.closed = await persist(self._pool, look, seconds=LOOK_PATIENCE_SECONDS)

    async def _look(self, id_: KeyId | None, mark: bytes) -> Entry | None:
        """The key of this text as the database has it now; None for a text that is no key of ours."""
        old = self._entries.get(mark)
        if id_ is None or bucket_of(id_) not in self._placement.all():
            return None
        try:
            async with self._looks:
                if (newer := self._entries.get(mark)) is not old and newer is not None:
                    return newer  # somebody else with the same key was before us
                known = await persist(self._pool, partial(keys.known, id_=id_), seconds=LOOK_PATIENCE_SECONDS)
        except DatabaseUnavailable:
            if old is not None and time.monotonic() - old.looked_at <= STALE_SECONDS:
                return old
            raise
        if known is None or not same(known.hash, mark):
            self._entries.pop(mark, None)
            return None
        entry = Entry(known)
        if old is not None:
            entry.used_at = old.used_at
        self._entries[mark] = entry
        self._entries.move_to_end(mark)
        if len(self._entries) > KNOWN_MAX:
            self._entries.popitem(last=False)
        self.closed = True
        return entry

    async def _end_streams(self) -> None:
        for id_ in list(self._streams):
            if id_ is None:
                over = self.closed
            else:
                known = await persist(self._pool, partial(keys.known, id_=id_), seconds=LOOK_PATIENCE_SECONDS)
                over = known is None or known.state is not KeyState.ACTIVE
            if over:
                for gone in self._streams.get(id_, ()):
                    gone.set()


def _itself(id_: KeyId) -> UUID:
    return id_
