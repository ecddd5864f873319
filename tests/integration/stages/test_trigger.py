"""Trigger: an event and its execution are there together, once, whoever takes it in and whatever dies in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from controlplane.domain.ids import ExecutionId
from controlplane.domain.trigger import (
    PRESETS,
    Definition,
    Incoming,
    Outcome,
    Preset,
    Taken,
    Trigger,
    TriggerEventId,
    TriggerId,
)
from controlplane.errors import IdempotencyConflict, TriggerEventNotFound, TriggerExists, TriggerNotFound
from controlplane.postgres.pool import Connection
from controlplane.stages import prune, trigger
from tests.make import NAMESPACE, TARGET, all_rows, counts, make_id, move_clock, submission

DEFINITION = Definition(target=TARGET, scheme=PRESETS[Preset.GITHUB])


async def made(conn: Connection, name: str = "t", **over: Any) -> Trigger:
    found, _ = await trigger.create(
        conn,
        0,
        TriggerId(make_id(0)),
        replace(DEFINITION, **over),
        namespace=NAMESPACE,
        name=name,
        secret_sealed=b"sealed",
        same_secret=lambda _: True,
        paused=False,
    )
    return found


def came(key: str = "k", **over: Any) -> Incoming:
    event = Incoming(id=TriggerEventId(make_id(0)), key=key, type="push", body=b"{}", headers={})
    return replace(event, **over)


async def take(conn: Connection, one: Trigger, event: Incoming, **over: Any) -> Taken:
    wish = over.pop("submission", submission(id=ExecutionId(make_id(0))))
    asked = {"namespace": NAMESPACE, "outcome": Outcome.SUBMITTED, "reason": None} | over
    return await trigger.take(conn, 0, one.id, event, wish, **asked)


async def test_the_event_and_its_execution_are_there(conn: Connection) -> None:
    """Together, and each names the other."""
    one = await made(conn)

    taken = await take(conn, one, came())

    [(id_,)] = await all_rows(conn, "select execution_id from trigger_events")
    assert await all_rows(conn, "select id from executions") == [(id_,)]
    assert taken.execution_id == id_
    assert (taken.began, taken.duplicate) == (True, False)


async def test_where_it_dies_in_between_nothing_is_there(conn: Connection) -> None:
    """And the sender, who has heard nothing, is taken in as new when it sends again."""
    one, event = await made(conn), came()
    with pytest.raises(asyncpg.PostgresError):
        await take(conn, one, event, submission=submission(id=ExecutionId(make_id(0)), target=None))
    assert await counts(conn, "trigger_events", "executions") == {"trigger_events": 0, "executions": 0}

    assert not (await take(conn, one, event)).duplicate


async def test_a_lost_answer_is_said_again(conn: Connection) -> None:
    """The same try, of the same event, is no duplicate of itself, and submits no second execution."""
    one, event = await made(conn), came()
    first = await take(conn, one, event)

    again = await take(conn, one, event)

    assert again == replace(first, began=True)
    assert await counts(conn, "trigger_events", "executions") == {"trigger_events": 1, "executions": 1}


async def test_two_at_once_are_one(conn: Connection, other: Connection) -> None:
    """The second waits for the first, and is told what became of it."""
    one = await made(conn)

    answers = await asyncio.gather(take(conn, one, came()), take(other, one, came()))

    assert {answer.execution_id for answer in answers} == {answers[0].execution_id}
    assert sorted(answer.duplicate for answer in answers) == [False, True]
    assert await counts(conn, "trigger_events", "executions") == {"trigger_events": 1, "executions": 1}


async def test_while_it_is_paused_it_submits_nothing(conn: Connection) -> None:
    """Whoever had looked before it was paused submits nothing either."""
    one = await made(conn)
    await trigger.pause(conn, 0, namespace=NAMESPACE, name="t", reason="r")

    taken = await take(conn, one, came())

    assert (taken.outcome, taken.execution_id) == (Outcome.HELD, None)
    assert await counts(conn, "trigger_events", "executions") == {"trigger_events": 1, "executions": 0}


async def test_once_it_is_removed_nothing_comes_in(conn: Connection) -> None:
    """Nobody keeps an event of a trigger that there is not."""
    one = await made(conn)
    await trigger.remove(conn, 0, namespace=NAMESPACE, name="t")

    with pytest.raises(TriggerNotFound):
        await take(conn, one, came())
    assert await counts(conn, "trigger_events", "executions") == {"trigger_events": 0, "executions": 0}


async def test_another_of_its_name(conn: Connection) -> None:
    """Is refused, and nothing is changed."""
    await made(conn)
    with pytest.raises(TriggerExists):
        await made(conn, event_types=("push",))


async def test_replayed_once_for_each_key(conn: Connection) -> None:
    """Counted once, and an event that there is not is not found."""
    one, event = await made(conn), came()
    await take(conn, one, event)

    def wish() -> Any:
        return submission(id=ExecutionId(make_id(0)), idempotency_key="k", idempotency_scope="s", request_hash=b"1")

    first = await trigger.replay(conn, 0, one.id, event.id, wish())
    again = await trigger.replay(conn, 0, one.id, event.id, wish())

    assert (again.id, again.replayed) == (first.id, True)
    assert await all_rows(conn, "select replays, replay_execution_id from trigger_events") == [(1, first.id)]
    with pytest.raises(TriggerEventNotFound):
        await trigger.replay(conn, 0, one.id, TriggerEventId(make_id(0)), wish())
    with pytest.raises(IdempotencyConflict):
        await trigger.replay(conn, 0, one.id, event.id, replace(wish(), request_hash=b"2"))


async def test_what_came_in_is_forgotten_in_time(conn: Connection) -> None:
    """Not before: until then it is known when it is sent again. Its execution stays."""
    one = await made(conn)
    await take(conn, one, came())
    assert await prune.drop_trigger_events(conn, 0, after_seconds=86_400.0) == 0
    await move_clock(conn, "2 days")

    assert await prune.drop_trigger_events(conn, 0, after_seconds=86_400.0) == 1
    assert await counts(conn, "trigger_events", "executions") == {"trigger_events": 0, "executions": 1}
