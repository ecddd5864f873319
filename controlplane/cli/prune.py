"""`controlplane prune`: remove now what the server removes by itself bit by bit, or say what that would be."""

from __future__ import annotations

import asyncio
from collections import Counter

import orjson

from controlplane.cli import output
from controlplane.cli.database import ask, dsn_of, require_newest
from controlplane.cli.environment import settings_with
from controlplane.daemons.archivist import drop_partition, steps
from controlplane.domain.placement import Placement
from controlplane.domain.retention import Forgotten, Keep
from controlplane.observe.log import configure
from controlplane.postgres.pool import SESSION_SETTINGS, Connection
from controlplane.settings import FOREVER, Settings
from controlplane.stages import forget
from controlplane.stages.prune import strays

BUSY_PAUSE_SECONDS = 0.05
REMOVED = "removed"
SET = "select set_config($1, $2, false)"


def prune(*, dry_run: bool, database_url: str | None, as_json: bool) -> None:
    """Remove, or with `dry_run` count, what is older than the CONTROLPLANE_KEEP_…_DAYS of this environment."""
    settings = settings_with(database_url=database_url)
    configure("WARNING", pretty=False)
    dsn = dsn_of(settings)
    require_newest(dsn, patience_seconds=0)
    placement = Placement(buckets=settings.buckets, hashed=settings.buckets_hashed)
    if dry_run:
        counts = ask(dsn, lambda conn: _preview(conn, placement, settings.keep))
        _show_preview(settings, counts, as_json=as_json)
    else:
        gone, partitions, left = ask(dsn, lambda conn: _prune(conn, placement, settings.keep))
        _show(gone, partitions, left, as_json=as_json)


async def _preview(conn: Connection, placement: Placement, keep: Keep) -> dict[str, Counter[str]]:
    """By status: how many executions would be removed, and how many are old enough but held, by what holds them."""
    await _plan_as_the_server(conn)
    counts: dict[str, Counter[str]] = {status.value: Counter() for status in keep.statuses()}
    for bucket in placement.all():
        async for page in forget.preview(conn, bucket, keep=keep):
            counts[page.status.value].update({why.value if why else REMOVED: n for why, n in page.why.items()})
    return counts


async def _prune(conn: Connection, placement: Placement, keep: Keep) -> tuple[Forgotten, list[str], list[str]]:
    """Every way to its end: a pass that a server has under way is finished, one that rests is begun."""
    await _plan_as_the_server(conn)
    gone = Forgotten()
    partitions: list[str] = []
    for bucket in placement.all():
        await forget.rouse(conn, bucket)
        while True:
            for step in steps(keep):
                while (part := await step(conn, bucket)) is not None:
                    gone.add(part)
            if not await forget.under_way(conn, bucket, keep=keep):
                break
            await asyncio.sleep(BUSY_PAUSE_SECONDS)  # a server goes this way just now
    while (name := await drop_partition(conn, placement)) is not None:
        partitions.append(name)
    return gone, partitions, await strays(conn)


async def _plan_as_the_server(conn: Connection) -> None:
    """A scan of a table that is planned while it is small stays one."""
    for name, value in SESSION_SETTINGS.items():
        await conn.execute(SET, name, value)


def _show_preview(settings: Settings, counts: dict[str, Counter[str]], *, as_json: bool) -> None:
    keep = settings.keep.days()
    if as_json:
        held = {
            status: {REMOVED: count[REMOVED], "held": {why: n for why, n in count.items() if why != REMOVED}}
            for status, count in counts.items()
        }
        output.data(orjson.dumps({"keep_days": keep, "executions": held}))
        return
    output.facts((f"keep_{name}_days", FOREVER if days is None else f"{days:g}") for name, days in keep.items())
    output.table(
        ["status", REMOVED, "held by"],
        (
            (status, count[REMOVED], ", ".join(f"{why} {n}" for why, n in sorted(count.items()) if why != REMOVED))
            for status, count in counts.items()
        ),
    )


def _show(gone: Forgotten, partitions: list[str], left: list[str], *, as_json: bool) -> None:
    rows = {table: n for table, n in gone.rows.items() if n}
    if as_json:
        output.data(
            orjson.dumps(
                {"executions": gone.executions, "rows": rows, "partitions": partitions, "default_not_empty": left}
            )
        )
        return
    if not (gone.executions or rows or partitions):
        output.data("There was nothing to remove.")
    output.facts([(f"executions {status}", n) for status, n in sorted(gone.executions.items())])
    output.facts(sorted(rows.items()))
    output.facts([("partitions", ", ".join(partitions) or None)])
    if left:
        output.complain(f"The DEFAULT partitions of {', '.join(left)} are not empty: see docs/howto/retention.md.")
