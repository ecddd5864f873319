"""Memory: values that outlive the process. Inside an execution they belong to its run, and writing needs the lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from controlplane_sdk import strict_json
from controlplane_sdk.checkpoints import Checkpoints, Place, encoded
from controlplane_sdk.context import Context, current
from controlplane_sdk.errors import LeaseLost, ScopeMissing
from controlplane_sdk.transport import Transport
from controlplane_sdk.writes import PATIENCE_SECONDS

SCOPES = {"run": "run", "workflow": "run", "session": "session", "actor": "actor", "global": "global"}
LIST_MAX = 1000

T = TypeVar("T")


class Reach(Protocol):
    """How memory is reached from wherever the caller stands."""

    transport: Transport
    checkpoints: Checkpoints

    async def here(self, work: Awaitable[T]) -> T:
        """Do it on the event loop that the connection belongs to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored value."""

    key: str
    value: Any
    version: int
    updated_at: str


# Inside the class `list` is the method.
Entries = list[Entry]


class Memory:
    """Durable values by key. `await set(…)` returns only when the value is committed.

    Every execution sees the memory of its own run, also when many run at once in one process. `scope` chooses another
    one: "run" (also "workflow"), "session", "actor" or "global"; the accessors do the same for a whole object.
    """

    def __init__(self, reach: Callable[[], Reach], scope: str | None = None, scope_id: str | None = None) -> None:
        self._reach = reach
        self._scope = scope
        self._scope_id = scope_id

    def run(self, run_id: str) -> Memory:
        """The memory of one run."""
        return Memory(self._reach, "run", run_id)

    def workflow(self, workflow_id: str) -> Memory:
        """The same as `run`."""
        return self.run(workflow_id)

    def session(self, session_id: str) -> Memory:
        """The memory of one session of a user."""
        return Memory(self._reach, "session", session_id)

    def actor(self, actor_id: str) -> Memory:
        """The memory of one actor."""
        return Memory(self._reach, "actor", actor_id)

    @property
    def global_scope(self) -> Memory:
        """The memory that everybody shares."""
        return Memory(self._reach, "global")

    async def get(self, key: str, default: Any = None, *, scope: str | None = None, scope_id: str | None = None) -> Any:
        """The stored value, or `default` when there is none."""
        place = self._place(key, scope, scope_id)
        return await self._with(lambda reach, _: _get(reach, place, default))

    async def exists(self, key: str, *, scope: str | None = None, scope_id: str | None = None) -> bool:
        """Whether something is stored under this key."""
        missing = object()
        return await self.get(key, missing, scope=scope, scope_id=scope_id) is not missing

    async def set(self, key: str, value: Any, *, scope: str | None = None, scope_id: str | None = None) -> None:
        """Store the value; on return it is committed.

        A list that extends what this execution stored last travels as what was added.
        Raises: NotJson, LeaseLost, RequestRefused, ServerUnreachable.
        """
        await self.set_many({key: value}, scope=scope, scope_id=scope_id)

    async def set_many(
        self, values: Mapping[str, Any], *, scope: str | None = None, scope_id: str | None = None
    ) -> None:
        """Store all of these values or none of them."""
        if not values:
            return
        places = {self._place(key, scope, scope_id): encoded(value) for key, value in values.items()}
        await self._with(lambda reach, context: reach.checkpoints.put(places, context))

    async def delete(self, key: str, *, scope: str | None = None, scope_id: str | None = None) -> None:
        """Forget the key; it need not be there."""
        place = self._place(key, scope, scope_id)
        await self._with(lambda reach, context: reach.checkpoints.delete(place, context))

    async def append(self, key: str, *items: Any, scope: str | None = None, scope_id: str | None = None) -> int:
        """Add elements to the end of a list, which need not exist yet; the new length.

        Raises: MemoryConflict when the stored value is not a list.
        """
        place = self._place(key, scope, scope_id)
        added = encoded(items)

        async def length(reach: Reach) -> int:
            stored = await _get(reach, place, [])
            return len(stored) if isinstance(stored, list) else 0

        return await self._with(
            lambda reach, context: reach.checkpoints.append(place, added, lambda: length(reach), context)
        )

    async def list(self, prefix: str = "", *, scope: str | None = None, scope_id: str | None = None) -> Entries:
        """The stored values whose keys begin with `prefix`, in the order of their keys."""
        place = self._place(prefix, scope, scope_id)
        return await self._with(lambda reach, _: _list(reach, place))

    def _place(self, key: str, scope: str | None, scope_id: str | None) -> Place:
        word = scope or self._scope
        owner = scope_id or (self._scope_id if scope in {None, self._scope} else None)
        context = current.get()
        if word is None:
            if context is None:
                raise ScopeMissing
            word = "run"
        if word not in SCOPES:
            raise ValueError(f"the scope must be one of {', '.join(SCOPES)}, not {word!r}")
        name = SCOPES[word]
        if name == "global":
            return Place(name, "", key)
        own = {"run": context.run_id, "session": context.session_key, "actor": context.actor_key} if context else {}
        if not (owner := owner or own.get(name)):
            raise ScopeMissing(f"the {name} scope needs an id: this execution has none of its own; give scope_id")
        return Place(name, owner, key)

    async def _with(self, work: Callable[[Reach, Context | None], Awaitable[T]]) -> T:
        reach = self._reach()
        context = current.get()
        try:
            return await reach.here(work(reach, context))
        except LeaseLost:
            if context is not None:
                context.lost()
            raise


async def _get(reach: Reach, place: Place, default: Any) -> Any:
    reply = await reach.transport.send_until_answered(
        "POST", "/memory/get", strict_json.encode(_where(place)), patience_seconds=PATIENCE_SECONDS
    )
    return default if reply.status == 404 else reply.expect()["data"]


async def _list(reach: Reach, place: Place) -> Entries:
    where = _where(place)
    params = {"prefix": where.pop("key"), "limit": str(LIST_MAX)} | where
    found: Entries = []
    while True:
        reply = await reach.transport.send_until_answered(
            "GET", "/memory/list", params=params, patience_seconds=PATIENCE_SECONDS
        )
        rows = reply.expect()
        found += [Entry(row["key"], row["data"], int(row["version"]), str(row["updated_at"])) for row in rows]
        if len(rows) < LIST_MAX:
            return found
        params["after"] = found[-1].key


def _where(place: Place) -> dict[str, str]:
    return {"key": place.key, "scope": place.scope} | ({"scope_id": place.scope_id} if place.scope_id else {})
