"""Many short lives of a control plane, invented by Hypothesis.

`HYPOTHESIS_PROFILE=long` looks much further, and elsewhere in every run; a failure prints the steps and a blob that
repeats it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from controlplane.postgres.pool import Connection
from tests.property.control import Control

COMMON = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
settings.register_profile("ci", COMMON, max_examples=160, stateful_step_count=40, derandomize=True)
settings.register_profile("long", COMMON, max_examples=1_500, stateful_step_count=80)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The machine's own loop: its rules are plain functions."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def connection(database: str, loop: asyncio.AbstractEventLoop) -> Iterator[Connection]:
    """A connection that lives on the machine's loop."""
    conn = loop.run_until_complete(asyncpg.connect(database))
    yield conn
    loop.run_until_complete(conn.close())


@pytest.mark.timeout(3600 if PROFILE == "long" else 300)
def test_the_stages_keep_their_promises(loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
    """Whatever is asked, repeated, lost, crashed or cancelled, the database looks as the model says."""

    class Here(Control):
        def __init__(self) -> None:
            super().__init__(loop, connection)

    run_state_machine_as_test(Here, settings=settings.get_profile(PROFILE))
