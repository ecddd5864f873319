"""Caps: how much a namespace may have; what it has; and the door that keeps its queue within.

A submit asks nobody: it is counted here, by this replica, on top of the last count. Below half of its cap that count is
the census's, and far enough. From half of it on this replica counts for itself, as often as it can afford, while
anything comes in; and once when something comes in for the first time since it started. So a namespace may exceed its
cap by what other replicas accept between two counts (LOOK_SECONDS, or REST times as long as a count takes), and is let
in again as late as that after room has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.audited import Noted, audited
from controlplane.api.body import read_form
from controlplane.api.doors import Doors, caller_of, doors_of, namespace_of
from controlplane.api.keys import named_namespace
from controlplane.api.operation import ADMIN, Operation
from controlplane.api.shapes import Shape, answer
from controlplane.domain.cap import CHILDREN_FACTOR, MOST, Cap, Ceiling, reached
from controlplane.domain.execution import DEFAULT_NAMESPACE, Submission
from controlplane.domain.key import Namespace
from controlplane.domain.memory import Remove, Write
from controlplane.domain.placement import Placement
from controlplane.errors import ControlPlaneError, DatabaseUnavailable, Invalid, NamespaceNotAllowed
from controlplane.postgres.pool import Connection, Pool, persist
from controlplane.reads import caps
from controlplane.stages import cap as cap_stage

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
FRESH_SECONDS = 2.0
"""How long what was said of a namespace at another replica may take to hold here."""
PATIENCE_SECONDS = 2.0
REST = 10.0
MARKS_MAX = 30
COUNTS_MAX = 16
"""Namespaces that are counted in one look; the others have their turn in the next."""


@dataclass(slots=True)
class Standing:
    """What a namespace has: the last count, what came in here since it began, and what is on its way.

    What ended meanwhile is not known before the next count, so this is never too low but for what other replicas let
    in. `total`: all that ever came in here; `base`: of those, how many the count knows of. `marks`: what `total` was
    when. `known`: this replica has counted it once for itself, for the census may be from before it started.
    """

    counted: int = 0
    counted_at: float = float("-inf")
    total: int = 0
    base: int = 0
    on_its_way: set[UUID] = field(default_factory=set)
    busy: bool = False
    known: bool = False
    rests_until: float = 0.0
    marks: deque[tuple[float, int]] = field(default_factory=partial(deque, maxlen=MARKS_MAX))

    @property
    def present(self) -> int:
        return self.counted + self.total - self.base + len(self.on_its_way)

    def adopt(self, count: int, at: float, *, total: int) -> None:
        """This many there were at that moment, `total` of those that came in here included."""
        if at > self.counted_at:
            self.counted, self.counted_at, self.base = count, at, total

    def total_at(self, moment: float) -> int:
        """What `total` was then, or a little before."""
        return max((total for at, total in self.marks if at <= moment), default=min(self.base, self.total))


class Passing:
    """The items of one flush that there is room for, and those that there is none for."""

    __slots__ = ("full", "items", "let_in")

    def __init__(self) -> None:
        self.items: list[Submission] = []
        self.full: list[Submission] = []
        self.let_in: dict[int, int] = {}

    def settle(self, namespace: int) -> None:
        """One of this namespace was accepted and had not been there before."""
        self.let_in[namespace] = self.let_in.get(namespace, 0) + 1


class Caps:
    """`defaults`: what holds for a namespace of which nothing else was said."""

    def __init__(self, pool: Pool, placement: Placement, *, defaults: Mapping[Cap, int | None]) -> None:
        self._pool = pool
        self._placement = placement
        self._defaults = dict(defaults)
        self._said: dict[int, dict[Cap, int | None]] = {}
        self._standings: dict[int, Standing] = {}
        self._memory: dict[Cap, dict[int, int]] = {}
        self._stored: dict[int, int] = {}
        self._read_at = float("-inf")

    @property
    def defaults(self) -> Mapping[Cap, int | None]:
        return self._defaults

    def said(self, namespace: int) -> Mapping[Cap, int | None]:
        """What was said of this namespace alone."""
        return self._said.get(namespace, {})

    def most(self, namespace: int, cap: Cap) -> int | None:
        """How many it may have. None: any number."""
        said = self._said.get(namespace)
        return said[cap] if said is not None and cap in said else self._defaults[cap]

    def ceiling(self, namespace: int, cap: Cap, *, bucket: int | None = None) -> Ceiling:
        """The same, for a stage that counts. `bucket`: where all of them lie, if that is known."""
        buckets = tuple(self._placement.all()) if bucket is None else (bucket,)
        return Ceiling(cap=cap, most=self.most(namespace, cap), buckets=buckets)

    def present(self, namespace: int) -> int:
        """How many unfinished executions it has, as far as is known here."""
        return self._standings.get(namespace, Standing()).present

    def wants_memory(self) -> bool:
        """Whether anybody has a cap of memory, which is not counted else."""
        return self._wants(Cap.MEMORY_KEYS) or self._wants(Cap.MEMORY_BYTES)

    def wants_stored(self) -> bool:
        """The same of what is stored."""
        return self._wants(Cap.STORED_BYTES)

    def _wants(self, cap: Cap) -> bool:
        return any(said.get(cap) is not None for said in (self._defaults, *self._said.values()))

    @contextlib.contextmanager
    def passing(self, batch: Sequence[Submission]) -> Iterator[Passing]:
        """Let in what there is room for. Asks nobody and waits for nothing."""
        passing = Passing()
        waiting = Counter(item.namespace for item in batch)
        if all([self._roomy(namespace, count) for namespace, count in waiting.items()]):  # noqa: C419 - of each
            passing.items = list(batch)
        else:
            self._part(batch, passing)
        for item in passing.items:
            self._standings[item.namespace].on_its_way.add(item.id)
        try:
            yield passing
        finally:
            for item in passing.items:
                self._standings[item.namespace].on_its_way.discard(item.id)
            for namespace, count in passing.let_in.items():
                self._standings[namespace].total += count

    def enter(self, namespace: int) -> None:
        """One that comes by another way than a lane is about to be accepted. Raises: NamespaceFull."""
        standing = self._standings.setdefault(namespace, Standing())
        if self.full(namespace):
            raise self._refusal(namespace)
        standing.total += 1

    def full(self, namespace: int) -> bool:
        """Whether there is no room now; it is counted anew soon because somebody has asked."""
        standing, most = self._standings.setdefault(namespace, Standing()), self.most(namespace, Cap.EXECUTIONS)
        standing.busy = True
        return (most is not None and standing.present >= most) or self._heavy(namespace)

    def refusal(self, item: Submission) -> ControlPlaneError:
        """What one hears that there is no room for."""
        return self._refusal(item.namespace, 1 if item.parent_attempt is None else CHILDREN_FACTOR)

    def refuse_memory(self, write: Write) -> ControlPlaneError | None:
        """Why a namespace whose memory is full may not add to it; what only removes is always done."""
        if not self._memory or all(isinstance(op, Remove) for op in write.ops):
            return None
        namespace = write.ops[0].place.namespace
        for cap, found in self._memory.items():
            most, present = self.most(namespace, cap), found.get(namespace, 0)
            if most is not None and present >= most:
                return reached(cap, most=most, present=present)
        return None

    async def run(self) -> None:
        """Keep the counts near enough to the truth."""
        while True:
            with contextlib.suppress(DatabaseUnavailable):  # said by `persist`; the last count holds so long
                if time.monotonic() - self._read_at > FRESH_SECONDS:
                    await self.refresh()
                await self._count_close()
            await asyncio.sleep(LOOK_SECONDS)

    async def refresh(self) -> None:
        """Read what was said, and the census. Raises: DatabaseUnavailable."""
        now = time.monotonic()
        self._said = await persist(self._pool, caps.said, seconds=PATIENCE_SECONDS)
        age_seconds, counted = await persist(
            self._pool,
            partial(caps.counted, cap=Cap.EXECUTIONS, buckets=self._placement.all()),
            seconds=PATIENCE_SECONDS,
        )
        for namespace in counted.keys() | self._standings.keys():
            standing = self._standings.setdefault(namespace, Standing())
            total = standing.total_at(now - age_seconds)
            quiet = total == standing.total and not standing.on_its_way
            # Near the cap what the census may or may not know of would count twice: there it counts for itself.
            if quiet or not self._close(namespace, standing):
                standing.adopt(counted.get(namespace, 0), now - age_seconds, total=total)
            standing.marks.append((now, standing.total))
        if self.wants_memory():
            self._memory = {cap: await self._read(cap) for cap in (Cap.MEMORY_KEYS, Cap.MEMORY_BYTES)}
        else:
            self._memory = {}
        self._stored = await self._read(Cap.STORED_BYTES) if self.wants_stored() else {}
        self._read_at = time.monotonic()

    def _roomy(self, namespace: int, count: int) -> bool:
        """Whether there is room for all of these; nearly always, and then nothing more is asked."""
        standing = self._standings.get(namespace)
        if standing is None:
            standing = self._standings[namespace] = Standing()
        standing.busy = True
        most = self.most(namespace, Cap.EXECUTIONS)
        return (most is None or standing.present + count <= most) and not self._heavy(namespace)

    def _heavy(self, namespace: int, factor: int = 1) -> bool:
        """Whether it stores as many bytes as it may, as of the last count."""
        if not self._stored:
            return False
        most = self.most(namespace, Cap.STORED_BYTES)
        return most is not None and self._stored.get(namespace, 0) >= factor * most

    def _part(self, batch: Sequence[Submission], passing: Passing) -> None:
        """In the order in which they came, as far as there is room."""
        came: Counter[int] = Counter()
        for item in batch:
            # Who waits for its children ends when they have: they must find room.
            factor = 1 if item.parent_attempt is None else CHILDREN_FACTOR
            most = self.most(item.namespace, Cap.EXECUTIONS)
            present = self._standings[item.namespace].present + came[item.namespace]
            if (most is not None and present >= factor * most) or self._heavy(item.namespace, factor):
                passing.full.append(item)
            else:
                passing.items.append(item)
                came[item.namespace] += 1

    def _refusal(self, namespace: int, factor: int = 1) -> ControlPlaneError:
        if self._heavy(namespace, factor):
            stored = self.most(namespace, Cap.STORED_BYTES)
            return reached(Cap.STORED_BYTES, most=stored or 0, present=self._stored[namespace])
        most = self.most(namespace, Cap.EXECUTIONS)
        return reached(Cap.EXECUTIONS, most=most or 0, present=self._standings[namespace].present)

    def _close(self, namespace: int, standing: Standing) -> bool:
        most = self.most(namespace, Cap.EXECUTIONS)
        return most is not None and 2 * standing.present >= most

    async def _count_close(self) -> None:
        """Count those that are near their cap and have had something to say since they were counted last."""
        now = time.monotonic()
        close = [
            (standing.rests_until, namespace, standing)
            for namespace, standing in self._standings.items()
            if standing.busy
            and standing.rests_until <= now
            and (self._close(namespace, standing) or not standing.known)
        ]
        for _, namespace, standing in sorted(close, key=lambda one: one[:2])[:COUNTS_MAX]:
            most = self.most(namespace, Cap.EXECUTIONS)
            standing.known = True
            if most is None:
                continue
            count = partial(self._count, namespace=namespace, limit=CHILDREN_FACTOR * most + 1)
            await persist(self._pool, count, seconds=PATIENCE_SECONDS)

    async def _count(self, conn: Connection, *, namespace: int, limit: int) -> None:
        """Exact but for what other replicas let in afterwards: what is on its way from here is counted here."""
        standing = self._standings[namespace]
        total, but, begun = standing.total, list(standing.on_its_way), time.monotonic()
        standing.busy = False
        buckets = self._placement.all()
        count = await caps.unfinished(conn, namespace=namespace, buckets=buckets, limit=limit, but=but)
        ended = time.monotonic()
        standing.adopt(count, begun, total=total)
        standing.rests_until = ended + REST * (ended - begun)

    async def _read(self, cap: Cap) -> dict[int, int]:
        read = partial(caps.counted, cap=cap, buckets=self._placement.all())
        return (await persist(self._pool, read, seconds=PATIENCE_SECONDS))[1]


class CapsForm(msgspec.Struct, forbid_unknown_fields=True):
    """What holds for a namespace: a number, null for any number; of what is left out, what the server says of all."""

    executions: int | msgspec.UnsetType | None = msgspec.UNSET
    stored_bytes: int | msgspec.UnsetType | None = msgspec.UNSET
    schedules: int | msgspec.UnsetType | None = msgspec.UNSET
    triggers: int | msgspec.UnsetType | None = msgspec.UNSET
    keys: int | msgspec.UnsetType | None = msgspec.UNSET
    nodes: int | msgspec.UnsetType | None = msgspec.UNSET
    sessions_per_node: int | msgspec.UnsetType | None = msgspec.UNSET
    memory_keys: int | msgspec.UnsetType | None = msgspec.UNSET
    memory_bytes: int | msgspec.UnsetType | None = msgspec.UNSET


async def read(request: Request) -> Response:
    """What the namespace may have and what it has; what is many was counted a few seconds ago."""
    namespace = await _namespace(request)
    return answer(await _shape(doors_of(request), namespace))


async def put(request: Request) -> Response:
    """These hold from here on; what is left out is as the server's settings say. What is there already stays."""
    doors = doors_of(request)
    form = await read_form(request, CapsForm, doors.limits.body_bytes_max)
    if namespace_of(request) != DEFAULT_NAMESPACE:
        raise NamespaceNotAllowed(where="path/namespace")
    namespace = await _namespace(request)
    said: dict[Cap, int | None] = {}
    for cap in Cap:
        most: int | msgspec.UnsetType | None = getattr(form, cap.value)
        if most is msgspec.UNSET:
            continue
        if most is not None and not 0 <= most <= MOST:
            raise Invalid(f"A number from 0 to {MOST:,}, or null.", where=f"body.{cap.value}")
        said[cap] = most
    await audited(
        request,
        lambda before: Noted(
            kind="namespace",
            id=namespace.name,
            before=before,
            after={cap.value: most for cap, most in said.items()},
        ),
        cap_stage.put,
        said,
        namespace=namespace.id,
    )
    await doors.caps.refresh()
    log.info(
        "namespace.capped",
        extra={
            "namespace_name": namespace.name,
            "caps": {cap.value: most for cap, most in said.items()},
            "by": caller_of(request),
        },
    )
    return answer(await _shape(doors, namespace))


async def _shape(doors: Doors, namespace: Namespace) -> Shape:
    present = await doors.run(caps.present, namespace=namespace.id, buckets=doors.placement.all())
    present[Cap.EXECUTIONS] = doors.caps.present(namespace.id)
    said = doors.caps.said(namespace.id)
    return {
        "namespace": namespace.name,
        "caps": [
            {
                "cap": cap.value,
                "most": doors.caps.most(namespace.id, cap),
                "default": doors.caps.defaults[cap],
                "said": cap in said,
                "present": present.get(cap),
            }
            for cap in Cap
        ],
    }


async def _namespace(request: Request) -> Namespace:
    return await named_namespace(request, request.path_params["namespace"], where="path/namespace")


PATH = "/api/v1/namespaces/{namespace}/caps"
LOOK = {404: "There is no such namespace.", 422: "Not valid; nothing was changed.", 503: "Try again."}

OPERATIONS = [
    Operation(
        scope=ADMIN,
        method="GET",
        path=PATH,
        handler=read,
        summary="How much a namespace may have, and what it has",
        tag="keys",
        answers={200: "Each cap; null is any number.", **LOOK},
    ),
    Operation(
        scope=ADMIN,
        method="PUT",
        path=PATH,
        handler=put,
        audit="namespace.capped",
        summary="Set how much a namespace may have",
        tag="keys",
        takes=CapsForm,
        answers={200: "They hold.", 400: "Malformed.", 413: "Too large.", **LOOK},
    ),
]
