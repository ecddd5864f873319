"""The drawing of the life of an execution and the code name the same states and transitions."""

from __future__ import annotations

import re

import asyncpg

from controlplane.domain.event import EventType
from controlplane.domain.execution import State, Status
from tests.docs.generated import ROOT

PAGE = (ROOT / "docs" / "concepts" / "lifecycle.md").read_text()


def test_every_state_is_explained() -> None:
    """Each word of `queue.state` has a row in the table."""
    assert {state.value for state in State} == set(re.findall(r"^\| `(\w+)` \| state", PAGE, re.MULTILINE))


def test_every_status_is_explained() -> None:
    """Each word on the wire has a row in the table."""
    assert {status.value for status in Status} == set(re.findall(r"^\| `(\w+)` \| status", PAGE, re.MULTILINE))


def test_every_event_is_explained() -> None:
    """Each type of event has a row in the table."""
    assert {event.value for event in EventType} == set(re.findall(r"^\| `([\w.]+)` \| event", PAGE, re.MULTILINE))


async def test_the_database_knows_the_same_states(conn: asyncpg.Connection) -> None:
    """The CHECK of `queue.state` holds the words of the domain, no more and no fewer."""
    check = await conn.fetchval(
        "select pg_get_constraintdef(oid) from pg_constraint where conname = 'queue_state_check'"
    )

    assert set(re.findall(r"'(\w+)'", check)) == {state.value for state in State}
