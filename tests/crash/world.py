"""What a story has in its hands: a control plane that may die at any await, and the memory of those who call it.

Clients, nodes and receivers are other processes: they live on when the control plane dies, and know what they were
answered. So every request of a story goes through `ask`, and its answer is written to a pipe that outlives the process.
The next life of the same story runs it from the top: what was answered is answered from that memory, the one request
without an answer is asked again, as any client would, and from there it goes on.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

import asyncpg

from controlplane.domain.begun import Begun
from controlplane.domain.ids import ExecutionId
from controlplane.errors import ControlPlaneError
from controlplane.postgres.pool import SESSION_SETTINGS, Connection, Pool
from tests.make import SET_CLOCK, make_id

Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")
CONNECTIONS = 2


@dataclass
class Memory:
    """What those outside were answered, in order; what is answered from now on is written to `pipe`."""

    said: list[Any] = field(default_factory=list)
    pipe: int | None = None
    asked: int = 0

    @property
    def replays(self) -> bool:
        return self.asked < len(self.said)

    def next(self) -> Any:
        self.asked += 1
        return self.said[self.asked - 1]

    def keep(self, answer: Any) -> None:
        self.asked += 1
        self.said.append(answer)
        if self.pipe is not None:
            raw = pickle.dumps(answer)
            _write(self.pipe, len(raw).to_bytes(4, "big") + raw)

    @classmethod
    def read(cls, raw: bytes) -> Memory:
        """What a life has left behind; the last answer may be cut off, and was heard by nobody then."""
        return cls([pickle.loads(one) for one in _frames(raw)])


class World:
    """`answered` is called when somebody outside has heard an answer: what happened before it is no more in doubt.

    `returns`: what the control plane does by itself when it is back, before anybody outside asks it again.
    """

    pool: Pool
    returns: Callable[[World], Awaitable[None]] | None = None

    def __init__(self, memory: Memory, answered: Callable[[], None]) -> None:
        self.memory = memory
        self.begun = Begun()
        self.names: dict[str, str] = {}
        """What the ids are called in this story: clients and servers make new ones in every run of it."""
        self._answered = answered
        self._offset_seconds = 0.0

    async def connect(self, dsn: str) -> None:
        self.pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=CONNECTIONS,
            setup=self._set_clock,
            reset=_as_it_is,
            server_settings=SESSION_SETTINGS,
        )

    async def ask(
        self,
        call: Callable[Concatenate[Connection, Arguments], Awaitable[Answer]],
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Answer:
        """What somebody outside is answered to this, in this life or an earlier one. A refusal is raised."""

        async def with_connection() -> Answer:
            async with self.pool.acquire() as conn:
                return await call(conn, *arguments, **options)

        return await self._remembered(with_connection)

    async def one(
        self,
        call: Callable[Concatenate[Connection, Sequence[Any], Arguments], Awaitable[Sequence[Any]]],
        item: Any,
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Any:
        """As `ask`, of a stage that takes a batch: the answer to a batch of this one."""
        [answer] = await self.ask(call, [item], *arguments, **options)
        if isinstance(answer, ControlPlaneError):
            raise answer
        return answer

    async def tick(self, tick: Callable[[], Awaitable[int]]) -> int:
        """One pass of a daemon; one that died in the middle is made again by the next life."""
        return await self._remembered(tick)

    async def transaction(self, act: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """As `ask`, for what the API does in a transaction of its own around several stages."""

        async def begin(conn: Connection) -> Answer:
            async with conn.transaction():
                return await act(conn)

        return await self.ask(begin)

    def new_id(self, name: str) -> UUID:
        """An id that somebody outside has made and remembers."""
        id_: UUID = self._once(lambda: make_id(0))
        self.names[str(id_)] = name
        return id_

    def execution_id(self, name: str) -> ExecutionId:
        return ExecutionId(self.new_id(name))

    def call(self, id_: UUID, name: str) -> None:
        """From here on the story says `name` for this id, which the control plane has made."""
        self.names[str(id_)] = name

    def time_passes(self, seconds: float) -> None:
        self._offset_seconds += seconds

    async def _set_clock(self, conn: Connection) -> None:
        await conn.execute(SET_CLOCK, f"{self._offset_seconds} seconds")

    def _once(self, make: Callable[[], Answer]) -> Answer:
        if self.memory.replays:
            answer: Answer = self.memory.next()
            return answer
        made = make()
        self.memory.keep(made)
        return made

    async def _return(self) -> None:
        returns, self.returns = self.returns, None
        if returns is not None:
            await returns(self)

    async def _remembered(self, act: Callable[[], Awaitable[Answer]]) -> Answer:
        if self.memory.replays:
            answer: Answer | ControlPlaneError = self.memory.next()
        else:
            await self._return()
            try:
                answer = await act()
            except ControlPlaneError as refusal:
                answer = refusal
            self.memory.keep(_plain(answer))
            self._answered()
        if isinstance(answer, ControlPlaneError):
            raise answer
        return answer


async def _as_it_is(_: Connection) -> None:
    """Nothing is left on a connection that its next user does not set anew."""


def _plain(answer: Any) -> Any:
    return dict(answer) if isinstance(answer, asyncpg.Record) else answer


def _write(pipe: int, raw: bytes) -> None:
    while raw:
        raw = raw[os.write(pipe, raw) :]


def _frames(raw: bytes) -> Iterator[bytes]:
    while len(raw) >= 4 and len(raw) - 4 >= (size := int.from_bytes(raw[:4], "big")):
        yield raw[4 : 4 + size]
        raw = raw[4 + size :]
