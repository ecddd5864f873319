"""All deaths at the awaits: `make crash-awaits ARGS="--seed 1 --places 4"`.

Prints the seed with which it can be done again; the exit status is 1 when a promise was broken. Every death is a line
of the file `--json` with an `l` at its end as soon as it has come: the same command after a stop goes on there. How to
read the rest: `campaign`. With `--only` the deaths whose names hold this text, as they are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import migrate
from tests.crash.awaits import campaign

MEMORY = Path("/dev/shm")


def main() -> None:
    asked = _arguments()
    print(f"seed: {asked.seed}", flush=True)
    asked.journal = Path(f"{asked.json}l")
    with _databases(asked.places) as (dsns, folder):
        told = asyncio.run(_run(asked, dsns, folder))
    _print(told)
    Path(asked.json).write_text(json.dumps(told, indent=1))
    sys.exit(bool(told["failures"]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.awaits", description=__doc__)
    parser.add_argument("--places", type=int, default=2, help="servers that die beside each other")
    parser.add_argument("--beside", type=int, default=4, help="agents and callers that die at once at one server")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="so long, in an order that the seed decides"
    )
    parser.add_argument("--only", default="", help="the deaths that are named so")
    parser.add_argument("--json", default="crash-awaits.json", help="the file that the result is written to")
    return parser.parse_args()


async def _run(asked: argparse.Namespace, dsns: list[str], folder: Path) -> dict[str, Any]:
    async with campaign.company(dsns, folder) as places:
        deaths = campaign.deaths(await campaign.survey(places, seed=asked.seed))
        done = _died(asked.journal)
        wanted = [one for one in deaths if asked.only in str(one) and str(one) not in done]
        print(f"{len(deaths)} sides are passed, {len(wanted)} of them are to be died at", flush=True)
        random.Random(asked.seed).shuffle(wanted)
        with asked.journal.open("a", buffering=1) as journal:

            def told(death: campaign.Death, ended: campaign.Ended) -> None:
                how, said = ended
                journal.write(json.dumps({"death": str(death), "how": how, "said": said}) + "\n")
                if said:
                    print(said, flush=True)

            result = await campaign.run(
                places, wanted, seed=asked.seed, beside=asked.beside, seconds=asked.seconds, told=told
            )
    result.died += [(one.name, one.side) for one in deaths if str(one) in done]
    return result.facts(deaths)


def _died(journal: Path) -> set[str]:
    """Those of an earlier run under the same seed; what failed or was missed is tried again."""
    lines = map(json.loads, journal.read_text().splitlines()) if journal.exists() else iter(())
    return {line["death"] for line in lines if line["how"] == "died"}


@contextmanager
def _databases(count: int) -> Iterator[tuple[list[str], Path]]:
    """So many migrated databases on a server of our own, in memory where there is room."""
    folder = Path(tempfile.mkdtemp(prefix="controlplane-crash-", dir=MEMORY if MEMORY.is_dir() else None))
    folder.chmod(0o755)
    settings = {"autovacuum": "off", "max_connections": "300"}
    try:
        with EmbeddedPostgres(folder / "postgres", durable=False, settings=settings) as postgres:
            dsns = [urlsplit(postgres.dsn)._replace(path=f"/place_{n}").geturl() for n in range(count)]
            asyncio.run(_execute(postgres.dsn, *(f"create database place_{n}" for n in range(count))))
            for dsn in dsns:
                migrate(dsn)
            yield dsns, folder
    finally:
        shutil.rmtree(folder)


async def _execute(dsn: str, *statements: str) -> None:
    conn = await asyncpg.connect(dsn)
    for statement in statements:
        await conn.execute(statement)
    await conn.close()


def _print(told: dict[str, Any]) -> None:
    print(f"{'module':<34} {'points':>7} {'sides':>7} {'passed':>7} {'killed':>7}")
    for name, one in told["modules"].items():
        print(f"{name:<34} {one['points']:>7} {one['sides']:>7} {one['passed']:>7} {one['killed']:>7}")
    print(f"{told['kills']} deaths in {told['seconds']} s, {len(told['failures'])} broke a promise")
    for what in ("not_passed", "missed", "failures"):
        for line in told[what]:
            print(f"{what}: {line}")


if __name__ == "__main__":
    main()
