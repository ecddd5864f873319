"""The only place that knows intervals. A tick does one bounded batch and says how much it did; tests call the tick."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from controlplane.errors import Unavailable
from controlplane.postgres.listen import Waiter
from controlplane.postgres.pool import PASSING

log = logging.getLogger(__name__)

Tick = Callable[[], Awaitable[int]]

ERROR_PAUSE_SECONDS = 1.0


async def run(
    tick: Tick, *, name: str, interval_seconds: float, jitter: Callable[[], float], hint: Waiter | None = None
) -> None:
    """Tick for ever. A pass that did something runs again at once; an idle one waits for the interval or a hint.

    `jitter` in [0, 1) keeps the replicas from ticking together.
    """
    failing = False
    while True:
        try:
            did = await tick()
        except (Unavailable, *PASSING) as error:
            if not failing:
                log.warning("daemon.waiting", extra={"daemon": name, "error": repr(error)})
            failing = True
            await asyncio.sleep(ERROR_PAUSE_SECONDS * (0.5 + jitter()))
            continue
        except Exception:
            log.exception("daemon.broken", extra={"daemon": name})
            await asyncio.sleep(ERROR_PAUSE_SECONDS * (0.5 + jitter()))
            continue
        if failing:
            log.info("daemon.recovered", extra={"daemon": name})
            failing = False
        if did:
            await asyncio.sleep(0)
            continue
        pause = interval_seconds * (0.9 + 0.2 * jitter())
        if hint is None:
            await asyncio.sleep(pause)
        else:
            await hint.wait(pause)


async def keep(run: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Run for ever what has a rhythm of its own: when it ends, for want of a database or by a bug, it begins anew."""
    while True:
        try:
            await run()
        except (Unavailable, *PASSING) as error:
            log.warning("daemon.waiting", extra={"daemon": name, "error": repr(error)})
        except Exception:
            log.exception("daemon.broken", extra={"daemon": name})
        await asyncio.sleep(ERROR_PAUSE_SECONDS)
