"""`controlplane verify`: ask the database whether every promise is kept, once or again and again."""

from __future__ import annotations

import time
from dataclasses import dataclass

import orjson
import typer

from controlplane.cli import output
from controlplane.cli.database import ask, dsn_of, require_newest
from controlplane.cli.environment import settings_with
from controlplane.cli.failure import ExitCode
from controlplane.domain.placement import Placement
from controlplane.observe.log import configure
from controlplane.postgres.pool import Connection
from controlplane.reads.verify import INVARIANTS, Invariant, broken

PATIENCE_SECONDS = 60.0
"""How long a database that is out of reach is waited for while it is watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """An invariant that does not hold, and the ids of what breaks it: the first FOUND_MAX."""

    invariant: Invariant
    ids: tuple[str, ...]


def verify(*, watch_seconds: float | None, database_url: str | None, as_json: bool) -> None:
    """Print what is broken; exit 1 if anything is, or was in any of the passes that were watched."""
    settings = settings_with(database_url=database_url)
    configure("WARNING", pretty=False)
    dsn = dsn_of(settings)
    require_newest(dsn, patience_seconds=0)
    placement = Placement(buckets=settings.buckets, hashed=settings.buckets_hashed)
    was_broken = False
    try:
        while True:
            found = ask(
                dsn, lambda conn: _pass(conn, placement), patience_seconds=PATIENCE_SECONDS if watch_seconds else 0
            )
            was_broken = was_broken or bool(found)
            _show(found, as_json=as_json)
            if watch_seconds is None:
                break
            time.sleep(watch_seconds)
    except KeyboardInterrupt:  # the usual end of watching
        pass
    if was_broken:
        raise typer.Exit(ExitCode.INTERNAL)


async def _pass(conn: Connection, placement: Placement) -> list[Violation]:
    return [
        Violation(invariant=one, ids=tuple(one.shown(id_) for id_ in ids))
        for one, ids in (await broken(conn, placement.all())).items()
    ]


def _show(found: list[Violation], *, as_json: bool) -> None:
    if as_json:
        shape = {
            "ok": not found,
            "invariants": len(INVARIANTS),
            "violations": [
                {"invariant": one.invariant.name, "promise": one.invariant.promise, "ids": one.ids} for one in found
            ],
        }
        output.data(orjson.dumps(shape))
        return
    for one in found:
        output.data(f"✗ {one.invariant.name}: {one.invariant.promise} Not so for {', '.join(one.ids)}")
    if not found:
        output.data(f"✓ all {len(INVARIANTS)} invariants hold")
