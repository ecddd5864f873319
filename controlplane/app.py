"""The composition root: everything is built here, once, and passed in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from controlplane import __version__
from controlplane.api import (
    attempts,
    audit,
    batch,
    bulk,
    caps,
    changes,
    deliveries,
    endpoints,
    events,
    executions,
    explain,
    health,
    hooks,
    keys,
    leases,
    limits,
    links,
    memory,
    nodes,
    openapi,
    pauses,
    problems,
    restart,
    retention,
    retry,
    runs,
    schedules,
    signals,
    steps,
    system,
    tickets,
    triggers,
    withhold,
)
from controlplane.api.agentfield import approvals
from controlplane.api.agentfield import operations as agentfield
from controlplane.api.agentfield.processes import Processes
from controlplane.api.auth import Gate
from controlplane.api.caps import Caps
from controlplane.api.catalogue import Catalogue
from controlplane.api.doors import (
    BULKS_TOPIC,
    CHANGES_TOPIC,
    DELIVERIES_TOPIC,
    EVENTS_TOPIC,
    LIMITS_TOPIC,
    NEWS_TOPIC,
    READ_RETRY_SECONDS,
    SCHEDULES_TOPIC,
    Admission,
    Doors,
    Lanes,
    Limits,
    tell_ready,
)
from controlplane.api.entrance import Entrance
from controlplane.api.facades import jobs, sockets, tasks
from controlplane.api.facades.intake import Facades
from controlplane.api.front import Front, House, Table
from controlplane.api.giveway import GiveWay
from controlplane.api.guard import Guard
from controlplane.api.lately import LatelyKept
from controlplane.api.lookout import Lookout
from controlplane.api.matching import Matching
from controlplane.api.operation import Operation, install
from controlplane.api.rate import Limiter, Rates
from controlplane.api.streams import Streams
from controlplane.api.upkeep import Upkeep
from controlplane.api.veil import Veil
from controlplane.api.waiting import Waiting
from controlplane.api.whose import Whose
from controlplane.daemons import loop
from controlplane.daemons.admitter import Admitter
from controlplane.daemons.announcer import Announcer
from controlplane.daemons.archivist import Archivist
from controlplane.daemons.bulker import Bulker
from controlplane.daemons.census import Census
from controlplane.daemons.dispatcher import Dispatcher
from controlplane.daemons.inspector import Inspector
from controlplane.daemons.janitor import DatabaseClock, Janitor
from controlplane.daemons.overseer import Overseer
from controlplane.daemons.pusher import Pusher
from controlplane.daemons.reaper import Reaper
from controlplane.daemons.scheduler import Scheduler
from controlplane.daemons.statistician import Statistician
from controlplane.daemons.verifier import Verifier
from controlplane.daemons.waker import Waker
from controlplane.domain import topic
from controlplane.domain.begun import Begun
from controlplane.domain.execution import Accepted, Submission
from controlplane.domain.fronts import Fronts
from controlplane.domain.ids import IdMaker
from controlplane.domain.lease import Claim, Lease, Recorded, Report
from controlplane.domain.memory import Append, Op, Put, Remove, Write, Written
from controlplane.domain.placement import Placement
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.schedule import Served
from controlplane.domain.step import Done
from controlplane.errors import ControlPlaneError, TargetNotFound
from controlplane.observe.metrics import Meter
from controlplane.outbound.node import NodeCaller
from controlplane.outbound.webhook import WebhookSender
from controlplane.postgres.lane import Lane
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Connection, Pool, close_pool, open_pool, outlast
from controlplane.reads import bulks, verify
from controlplane.reads import changes as change_rows
from controlplane.reads import events as event_rows
from controlplane.reads import executions as execution_rows
from controlplane.security.egress import EgressPolicy
from controlplane.security.randomness import RandomBits
from controlplane.security.secrets import KeyRing
from controlplane.settings import Settings
from controlplane.stages import checkpoint, complete, lease, log, renew, replay, step, submit
from controlplane.stages.endpoint import Patience
from controlplane.stages.expire import Stopped
from controlplane.ui.pages import pages
from controlplane.ui.paint import shown

logger = logging.getLogger(__name__)

OPERATIONS = [
    *batch.OPERATIONS,  # before a path that takes `batch` for a target
    *executions.OPERATIONS,
    *explain.OPERATIONS,
    *attempts.OPERATIONS,
    *restart.OPERATIONS,
    *retry.OPERATIONS,
    *runs.OPERATIONS,
    *schedules.OPERATIONS,
    *triggers.OPERATIONS,
    *hooks.OPERATIONS,
    *bulk.OPERATIONS,
    *limits.OPERATIONS,
    *nodes.OPERATIONS,
    *withhold.OPERATIONS,
    *leases.OPERATIONS,
    *memory.OPERATIONS,
    *steps.OPERATIONS,
    *signals.OPERATIONS,
    *links.OPERATIONS,
    *changes.OPERATIONS,
    *events.OPERATIONS,
    *deliveries.OPERATIONS,
    *endpoints.OPERATIONS,
    *pauses.OPERATIONS,
    *agentfield.OPERATIONS,
    *keys.OPERATIONS,
    *caps.OPERATIONS,
    *audit.OPERATIONS,
    *tickets.OPERATIONS,
    *retention.OPERATIONS,
    *health.OPERATIONS,
    *system.OPERATIONS,
]

REAPER_SECONDS = 0.5
ANNOUNCER_SECONDS = 1.0
ANNOUNCER_SPACING_SECONDS = 0.05
ANNOUNCER_IDLE_SECONDS = 1.0
"""Every event hints at it; while nobody listens one look a second is enough."""
DISPATCHER_SECONDS = 1.0
JANITOR_SECONDS = 60.0
ARCHIVIST_SECONDS = 60.0
PUSHER_SECONDS = 1.0
OVERSEER_SECONDS = 1.0
SCHEDULER_SECONDS = 1.0
STATISTICIAN_SECONDS = 5.0
BULKER_SECONDS = 1.0
INSPECTOR_SECONDS = 600.0
VERIFIER_LOOKS = 4.0
"""So many times in the time between two passes a replica looks whether the next one is its turn."""
VERIFIER_LOOK_LEAST_SECONDS = 0.25
WAKER_SECONDS = 0.25
WAKER_SPACING_SECONDS = 0.05
"""Every end may be the one that a parent waits for: so many passes a second look at all of them."""
ADMITTER_SECONDS = 0.5
CENSUS_LOOK_SECONDS = 1.0
END_SECONDS = 5.0
"""How long daemons may take to put down what they have in hand, until their connections are taken from them."""
REPLAYS_MAX = 16
"""Children that one flush looks up in the source run: the results of all of them are in memory at once."""
READS_MAX = 16
"""Executions that one look reads for whoever asks how they stand: likewise."""


def build(settings: Settings, *, database_url: str, keyring: KeyRing, url: str | None = None) -> FastAPI:
    """The application. Connections are opened when it starts and closed when it stops.

    `url`: where it listens, if that is another port than the one that was asked for.
    """
    public_url = settings.public_url or url or f"http://{settings.host}:{settings.port}"

    operations = operations_of(settings)
    seen = pages(operations)
    meter = Meter()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(app, settings, database_url, keyring, public_url, meter):
            yield

    app = House(
        title="controlplane",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        doors=[
            Middleware(Guard, meter=meter),
            *_cors(settings),
            Middleware(
                Gate,
                operations=[*operations, *seen],
                shown=shown,
                signed=[approvals.SIGNED_PATH] if settings.approval_secret else [],
            ),
            *_rates(settings),
            Middleware(GiveWay),
            Middleware(Veil),
            Middleware(Front, shown=shown),
        ],
    )
    install(app, [*operations, *seen])
    events.install_sockets(app)
    changes.install_sockets(app)
    if settings.jobs_target:
        sockets.install_sockets(app)
    problems.install(
        app,
        paths=[one.path for one in operations],
        methods=Table([*operations, *seen]).methods,
        shown=shown,
    )
    # Made when somebody first asks: it takes as long as half of all else that a start does.
    app.openapi = cache(partial(openapi.document, operations))  # type: ignore[method-assign]
    return app


def _cors(settings: Settings) -> list[Middleware]:
    """Nothing unless pages are named: a browser then keeps what is answered from every page of another origin."""
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=sorted({one.method for one in OPERATIONS}),
            allow_headers=["*"],
            expose_headers=["*"],
        )
    ]


def _rates(settings: Settings) -> list[Middleware]:
    if settings.rate_per_second is None and settings.namespace_rate_per_second is None:
        return []
    rates = namespaces = None
    if settings.rate_per_second is not None:
        rates = Rates(per_second=settings.rate_per_second, burst=settings.rate_burst)
    if settings.namespace_rate_per_second is not None:
        namespaces = Rates(
            per_second=settings.namespace_rate_per_second, burst=settings.namespace_rate_burst, name="namespace"
        )
    return [Middleware(Limiter, rates=rates, namespaces=namespaces)]


def operations_of(settings: Settings) -> list[Operation]:
    """What there is, and the façades that are on."""
    on = [(settings.jobs_target, jobs.OPERATIONS), (settings.agent_target, tasks.OPERATIONS)]
    return OPERATIONS + [one for target, operations in on if target for one in operations]


@contextlib.asynccontextmanager
async def _running(
    app: FastAPI, settings: Settings, dsn: str, keyring: KeyRing, public_url: str, meter: Meter
) -> AsyncIterator[None]:
    pool = await open_pool(
        dsn, size=settings.database_connections, name="controlplane", pooler=settings.database_pooler
    )
    placement = Placement(buckets=settings.buckets, hashed=settings.buckets_hashed)
    clock = DatabaseClock()
    ids = IdMaker(clock.milliseconds, RandomBits())
    listens_at = settings.database_direct_url or (None if settings.database_pooler else dsn)
    hints = Hints(pool, listens_at, notify=settings.notify)
    admission = Admission(hints)
    fronts = Fronts()
    registered = hints.waiter(topic.REGISTERED)
    namespace_caps = Caps(pool, placement, defaults=settings.caps)
    egress = EgressPolicy(allow=settings.egress_allow, allow_loopback=settings.egress_allow_loopback)
    nodes_egress = EgressPolicy(allow=settings.nodes_allow, allow_loopback=settings.egress_allow_loopback)
    token = None if settings.node_token is None else settings.node_token.get_secret_value()
    caller = NodeCaller(nodes_egress, answer_bytes_max=settings.payload_bytes_max + 1, token=token)
    sender = WebhookSender(egress)
    matching = Matching()
    begun = Begun()
    doors = Doors(
        pool=pool,
        lanes=_lanes(
            pool,
            placement,
            ids,
            admission,
            namespace_caps,
            fronts,
            matching,
            begun,
            hints,
            patience_seconds=settings.database_patience_seconds,
        ),
        hints=hints,
        admission=admission,
        placement=placement,
        ids=ids,
        limits=Limits(
            body_bytes_max=settings.body_bytes_max,
            payload_bytes_max=settings.payload_bytes_max,
            sync_wait_seconds=settings.sync_wait_seconds,
            cancel_grace_seconds=settings.cancel_grace_seconds,
            lease_floor_seconds=settings.lease_seconds,
            webhook_attempts_max=settings.webhook_attempts_max,
            endpoints_max=settings.endpoints_max,
            push_slots=settings.push_slots,
            push_slots_of=settings.push_slots_of,
            push_lease_seconds=settings.push_lease_seconds,
            push_dispatch_seconds=settings.push_dispatch_seconds,
            push_start_to_close_seconds=settings.push_start_to_close_seconds,
        ),
        keep=settings.keep,
        keyring=keyring,
        public_url=public_url.rstrip("/"),
        egress=egress,
        nodes_egress=nodes_egress,
        approval_secret=settings.approval_secret.get_secret_value() if settings.approval_secret else None,
        discover=caller.discover,
        send=partial(sender.send, total_seconds=settings.webhook_seconds),
        catalogue=Catalogue(pool, placement, registered, patience_seconds=settings.database_patience_seconds),
        caps=namespace_caps,
        lately=LatelyKept(pool, placement),
        waiting=Waiting(pool, hints),
        begun=begun,
        lookout=Lookout(pool, hints, placement),
        matching=matching,
        upkeep=Upkeep(pool, hints, placement),
        streams=Streams(pool, hints, placement, topic=EVENTS_TOPIC, page=event_rows.stream),
        changes=Streams(pool, hints, placement, topic=CHANGES_TOPIC, page=change_rows.stream, rows=changes.PAGE),
        sessions=leases.Sessions(),
        processes=Processes(),
        facades=Facades(jobs_target=settings.jobs_target, agent_target=settings.agent_target),
        entrance=Entrance(
            pool,
            hints,
            placement,
            api_key=settings.api_key.get_secret_value() if settings.api_key else None,
            wrong_keys_per_minute=settings.wrong_keys_per_minute,
        ),
        whose=Whose(pool),
        meter=meter,
        snapshot_seconds=settings.snapshot_seconds,
        verifies=settings.verify_seconds > 0,
        ui_read_only=settings.ui_read_only,
    )
    app.state.doors = doors
    janitor = Janitor(
        pool,
        placement,
        clock,
        weeks_ahead=settings.partitions_weeks_ahead,
        secret_days=settings.webhook_secret_days,
        changes_seconds=settings.memory_changes_seconds,
        trigger_events_days=settings.trigger_events_days,
        audit_days=settings.keep_audit_days,
    )
    await outlast(janitor.tick)  # before the first id is made
    await outlast(doors.entrance.begin)
    await outlast(doors.caps.refresh)
    inspector = Inspector(pool, placement, keyring, found=doors.inspected)
    verifier = Verifier(
        pool,
        placement,
        promises={one.name: one.promise for one in verify.HOT.values()},
        look=verify.hot,
        every_seconds=settings.verify_seconds,
    )
    archivist = Archivist(pool, placement, settings.keep)
    census = Census(pool, placement, memory=doors.caps.wants_memory, stored=doors.caps.wants_stored)
    scheduler = Scheduler(
        pool,
        placement,
        make_id=ids.new,
        serves=partial(_served, doors.catalogue),
        ready=doors.ready,
        ended=doors.ended,
        cancelling=doors.cancelling,
        full=doors.caps.full,
    )
    bulker = Bulker(
        pool,
        placement,
        find=bulks.find,
        read_asked=partial(_read_asked, doors.catalogue),
        make_id=ids.new,
        ready=doors.ready,
        ended=doors.ended,
        cancelling=doors.cancelling,
        due=doors.due,
    )
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(sender)
        callbacks = await stack.enter_async_context(WebhookSender(nodes_egress))
        await stack.enter_async_context(caller)
        await stack.enter_async_context(hints.running())
        dispatcher = Dispatcher(
            pool,
            placement,
            sender,
            callbacks,
            keyring,
            hints,
            jitter=random.random,
            attempt_seconds=settings.webhook_seconds,
            in_flight_max=settings.webhooks_in_flight_max,
            per_host_max=settings.webhooks_per_host_max,
            topic=DELIVERIES_TOPIC,
            told=partial(hints.tell, EVENTS_TOPIC),
            patience=Patience(
                dead_max=settings.endpoint_dead_max, failing_seconds=settings.endpoint_failing_hours * 3_600
            ),
        )
        announcer = Announcer(
            pool,
            placement,
            make_id=ids.new,
            public_url=doors.public_url,
            planned=partial(hints.tell, DELIVERIES_TOPIC),
            spacing_seconds=ANNOUNCER_SPACING_SECONDS,
            idle_seconds=ANNOUNCER_IDLE_SECONDS,
        )
        await outlast(announcer.begin)
        pusher = Pusher(
            pool,
            placement,
            caller,
            hints,
            claim=doors.lanes.claim,
            complete=doors.lanes.complete,
            make_id=ids.new,
            targets_of=doors.catalogue.targets_of,
            ready=doors.ready,
            ended=doors.ended,
            dispatch_seconds=settings.push_dispatch_seconds,
            result_bytes_max=settings.payload_bytes_max,
        )
        overseer = Overseer(pool, placement, caller, hints, pusher, dispatch_seconds=settings.push_dispatch_seconds)
        reaper = Reaper(
            pool,
            placement,
            make_id=ids.new,
            cancel_grace_seconds=settings.cancel_grace_seconds,
            ready=doors.ready,
            ended=doors.ended,
            due=doors.due,
            stopped=partial(_stopped, overseer, hints),
            cancelling=doors.cancelling,
            blocked=admission.blocked,
            jitter=random.random,
        )
        statistician = Statistician(pool, pinned=fronts.pin)
        waker = Waker(
            pool,
            placement,
            woken=doors.woken,
            spacing_seconds=WAKER_SPACING_SECONDS,
            due_seconds=WAKER_SECONDS / 2,
        )
        admitter = Admitter(pool, placement, ready=doors.ready, admission=admission)
        stack.enter_context(registered)
        came = stack.enter_context(hints.waiter(topic.NODES))
        due = stack.enter_context(hints.waiter(DELIVERIES_TOPIC))
        happened = stack.enter_context(hints.waiter(EVENTS_TOPIC))
        limited = stack.enter_context(hints.waiter(LIMITS_TOPIC))
        scheduled = stack.enter_context(hints.waiter(SCHEDULES_TOPIC))
        bulk_begun = stack.enter_context(hints.waiter(BULKS_TOPIC))
        news = stack.enter_context(hints.waiter(NEWS_TOPIC))
        every = partial(loop.run, jitter=random.random)
        looks = max(settings.verify_seconds / VERIFIER_LOOKS, VERIFIER_LOOK_LEAST_SECONDS)
        tasks = _start(
            ({"verifier": every(verifier.tick, name="verifier", interval_seconds=looks)} if doors.verifies else {})
            | {
                "reaper": every(reaper.tick, name="reaper", interval_seconds=REAPER_SECONDS),
                "janitor": every(janitor.tick, name="janitor", interval_seconds=JANITOR_SECONDS),
                "archivist": every(archivist.tick, name="archivist", interval_seconds=ARCHIVIST_SECONDS),
                "census": every(census.tick, name="census", interval_seconds=CENSUS_LOOK_SECONDS),
                "dispatcher": every(dispatcher.turn, name="dispatcher", interval_seconds=DISPATCHER_SECONDS, hint=due),
                "announcer": every(announcer.tick, name="announcer", interval_seconds=ANNOUNCER_SECONDS, hint=happened),
                "pusher": every(pusher.tick, name="pusher", interval_seconds=PUSHER_SECONDS, hint=came),
                "scheduler": every(
                    scheduler.tick, name="scheduler", interval_seconds=SCHEDULER_SECONDS, hint=scheduled
                ),
                "statistician": every(statistician.tick, name="statistician", interval_seconds=STATISTICIAN_SECONDS),
                "bulker": every(bulker.tick, name="bulker", interval_seconds=BULKER_SECONDS, hint=bulk_begun),
                "waker": every(waker.tick, name="waker", interval_seconds=WAKER_SECONDS, hint=news),
                "admitter": every(admitter.tick, name="admitter", interval_seconds=ADMITTER_SECONDS, hint=limited),
                "overseer": every(overseer.tick, name="overseer", interval_seconds=OVERSEER_SECONDS),
                "inspector": every(inspector.tick, name="inspector", interval_seconds=INSPECTOR_SECONDS),
            }
            | {name: loop.keep(run, name=name) for name, run in _watches(doors).items()}
        )
        try:
            yield
        finally:
            await _end(tasks, pool)
            await overseer.drain()
            await asyncio.gather(pusher.drain(settings.drain_seconds), dispatcher.drain(settings.drain_seconds))
            await doors.lanes.close()
    await close_pool(pool)


def release_waiters(app: FastAPI) -> None:
    """Let long polls, sync callers and streams go: the server is about to stop."""
    doors: Doors | None = getattr(app.state, "doors", None)
    if doors is not None and not doors.stopping:
        doors.stopping = True
        doors.hints.wake_all()
        doors.waiting.release()
        doors.streams.release()
        doors.changes.release()


def _lanes(
    pool: Pool,
    placement: Placement,
    ids: IdMaker,
    admission: Admission,
    caps: Caps,
    fronts: Fronts,
    matching: Matching,
    begun: Begun,
    hints: Hints,
    *,
    patience_seconds: float,
) -> Lanes:
    async def accept(conn: Connection, batch: list[Submission]) -> list[Accepted | ControlPlaneError]:
        with matching.offering(batch) as offering:
            answers = await _within(caps, conn, batch, partial(submit.accept, offers=offering.sessions, begun=begun))
            offering.settle(answers)
        if any(item.parent_id is not None for item in batch):  # whoever waits for a child holds nothing
            admission.freed()
        _tell(hints, admission, batch, answers)
        return answers

    async def take_over(conn: Connection, batch: list[Submission]) -> list[Accepted | ControlPlaneError]:
        call = partial(replay.accept, make_id=ids.new)
        answers = await _within(caps, conn, batch, call)
        _tell(hints, admission, batch, answers)
        return answers

    async def claim(conn: Connection, batch: list[Claim]) -> list[list[Lease] | ControlPlaneError]:
        answers = await lease.claim(conn, batch, placement, fronts)
        if any(answers):  # of a fairness key others may be ready now
            admission.freed()
        return answers

    async def write(conn: Connection, batch: list[Write]) -> list[list[Written] | ControlPlaneError]:
        refused = {n: error for n, one in enumerate(batch) if (error := caps.refuse_memory(one)) is not None}
        if not refused:
            return await checkpoint.write(conn, batch)
        rest = iter(await checkpoint.write(conn, [one for n, one in enumerate(batch) if n not in refused]))
        return [refused[n] if n in refused else next(rest) for n in range(len(batch))]

    async def report(conn: Connection, batch: list[Report]) -> list[Recorded | ControlPlaneError]:
        answers = await complete.report(conn, batch, make_id=ids.new, jitter=random.random, begun=begun)
        admission.freed()
        return answers

    return Lanes(
        submit=Lane(
            pool,
            accept,
            name="submit",
            retry_seconds=patience_seconds,
            keys=_once,
            weigh=lambda item: len(item.input) + len(item.context or b""),
        ),
        replay=Lane(
            pool,
            take_over,
            name="replay",
            batch_max=REPLAYS_MAX,
            retry_seconds=patience_seconds,
            keys=_once,
            weigh=lambda item: len(item.input) + len(item.context or b""),
        ),
        claim=Lane(
            pool,
            claim,
            name="claim",
            batch_max=32,
            retry_seconds=patience_seconds,
        ),
        renew=Lane(
            pool, renew.extend, name="renew", retry_seconds=patience_seconds, keys=lambda beat: (beat.session_id,)
        ),
        complete=Lane(
            pool,
            report,
            name="complete",
            retry_seconds=patience_seconds,
            keys=lambda item: (item.fence.execution_id,),
            weigh=lambda item: len(item.result or b""),
        ),
        memory=Lane(
            pool,
            write,
            name="memory",
            retry_seconds=patience_seconds,
            keys=lambda item: {op.place for op in item.ops},
            weigh=lambda item: sum(map(_bytes, item.ops)),
        ),
        steps=Lane(
            pool,
            step.write,
            name="steps",
            retry_seconds=patience_seconds,
            keys=lambda item: (item.fence.execution_id,),
            weigh=lambda item: sum(len(op.value) for op in item.ops if isinstance(op, Done)),
        ),
        log=Lane(pool, log.append, name="log", retry_seconds=2.0, waiting_max=20_000),
        read=Lane(pool, execution_rows.read_each, name="read", batch_max=READS_MAX, retry_seconds=READ_RETRY_SECONDS),
    )


async def _within(
    caps: Caps,
    conn: Connection,
    batch: list[Submission],
    accept: Callable[[Connection, list[Submission]], Awaitable[list[Accepted | ControlPlaneError]]],
) -> list[Accepted | ControlPlaneError]:
    """What there is room for is accepted. What has been accepted before is answered so, also where there is none."""
    with caps.passing(batch) as passing:
        answers = await accept(conn, passing.items)
        for item, said in zip(passing.items, answers, strict=True):
            if isinstance(said, Accepted) and not said.replayed and said.source_id is None:
                passing.settle(item.namespace)
        if not passing.full:
            return answers
        said_of = {item.id: said for item, said in zip(passing.items, answers, strict=True)}
        before = await submit.before(conn, passing.full)
        said_of |= {item.id: before.get(item.id) or caps.refusal(item) for item in passing.full}
    return [said_of[item.id] for item in batch]


def _stopped(overseer: Overseer, hints: Hints, stopped: Sequence[Stopped]) -> None:
    """Tell the processes whose attempts have run out of time, those that are called and those that ask."""
    overseer.late(stopped)
    for one in stopped:
        hints.tell(topic.session(one.session_id))


async def _read_asked(
    catalogue: Catalogue, conn: Connection, bucket: int, id_: UUID, *, namespace: int
) -> Submission | None:
    """What was asked of an execution, to be asked again: it passes the limits of today."""
    old = await execution_rows.read_asked(conn, bucket, id_, namespace=namespace)
    return old and replace(old, line=await catalogue.line_now(old.namespace, old.target, old.concurrency_key))


def _tell(
    hints: Hints, admission: Admission, batch: list[Submission], answers: list[Accepted | ControlPlaneError]
) -> None:
    """After their commit: as many nodes as there is work shall look for it, and what is held back has to be let in."""
    accepted = [(item, one) for item, one in zip(batch, answers, strict=True) if isinstance(one, Accepted)]
    ready = Counter((item.namespace, item.target) for item, one in accepted if one.ready)
    for (namespace, target), rows in ready.items():
        tell_ready(hints, namespace, target, rows)
    if any(one.blocked_by is not None for _, one in accepted):
        admission.blocked()


async def _served(catalogue: Catalogue, namespace: int, target: str) -> Served:
    """What a schedule's target is; one that nobody knows any more waits in the queue, as any other work would."""
    try:
        entry = await catalogue.find(namespace, target)
    except TargetNotFound:
        line = catalogue.line(namespace, target, None)
        return Served(type="reasoner", retry=RetryPolicy(), timeout_seconds=None, line=line)
    return catalogue.served(entry)


def _once(item: Submission) -> tuple[tuple[object, ...], ...]:
    """What two submissions of one flush must not both take."""
    if item.step is not None:
        return ((item.parent_id, item.step),)
    if item.idempotency_key is None:
        return ()
    return ((item.namespace, item.idempotency_scope, item.idempotency_key),)


def _bytes(op: Op) -> int:
    match op:
        case Put():
            return len(op.value)
        case Append():
            return sum(map(len, op.items))
        case Remove():
            return 0


def _watches(doors: Doors) -> dict[str, Callable[[], Awaitable[None]]]:
    """What looks out for those who wait here, each in a rhythm of its own."""
    return {
        "entrance": doors.entrance.run,
        "caps": doors.caps.run,
        "waiting": doors.waiting.run,
        "lookout.work": doors.lookout.watch_work,
        "lookout.cancels": doors.lookout.watch_cancels,
        "upkeep": doors.upkeep.watch,
        "streams": doors.streams.run,
        "changes": doors.changes.run,
    }


def _start(daemons: dict[str, Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(daemon, name=name) for name, daemon in daemons.items()]


async def _end(tasks: list[asyncio.Task[None]], pool: Pool) -> None:
    """Cancel the daemons, and again where that was lost.

    One whose connection died without a word waits for it, and hears the end of that instead of the cancel.
    """
    for task in tasks:
        task.cancel()
    _, left = await asyncio.wait(tasks, timeout=END_SECONDS)
    while left:
        logger.warning("daemon.hangs", extra={"daemons": sorted(task.get_name() for task in left)})
        pool.terminate()
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=END_SECONDS)
