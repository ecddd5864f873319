"""`make property`: the long form, in chunks and in processes side by side. It prints its seed and its figures.

What a chunk did is a line of a file in `--folder`; called again with the same seed and lengths it goes on where it was.
`property.json` there is the sum, for docs/reliability.md. It has failed when a chunk has, or a rule was never drawn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import migrate
from tests.property.chunk import chunk
from tests.property.course import LONG, Length, never
from tests.property.tally import Tally

CHUNK = 100
"""Examples of a chunk: what is lost when a run is stopped, and what a failure makes unknown."""
MEMORY = Path("/dev/shm")
# Each life has a bucket of its own, for which no other plan is better than the one that is there already.
SERVER = {"autovacuum": "off", "max_connections": "100", "plan_cache_mode": "force_generic_plan"}


def main() -> int:
    """0 when everything was lived through and nothing was found."""
    parser = argparse.ArgumentParser(prog="tests.property", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--examples", type=int, default=LONG.examples)
    parser.add_argument("--steps", type=int, default=LONG.steps)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no chunk after so many")
    parser.add_argument("--hasty", action="store_true", help="show what was found as it was found, not shrunk")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "controlplane-property")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    chunks = asked.folder / f"seed-{asked.seed}-steps-{asked.steps}.jsonl"
    print(f"seed {asked.seed}, report in {asked.folder}", flush=True)
    done = _read(chunks)
    wanted = [number for number in range(-(-asked.examples // CHUNK)) if number not in done]
    until = time.monotonic() + 60 * asked.minutes
    with _server() as dsn, chunks.open("a") as file:
        for one in _run(dsn, asked, wanted, until):
            file.write(json.dumps(one) + "\n")
            file.flush()
            done[one["number"]] = one
            state = "failed" if one["failure"] else "done"
            print(f"chunk {one['number']} {state} after {one['seconds']:.0f} s: {one['examples']} examples", flush=True)
    return _tell(asked, list(done.values()))


def _run(dsn: str, asked: argparse.Namespace, wanted: list[int], until: float) -> Iterator[dict[str, Any]]:
    """What became of each chunk, as they come; a few at a time, so that none begins too late."""
    left = iter(wanted)
    with ProcessPoolExecutor(asked.processes, mp_context=multiprocessing.get_context("spawn")) as pool:

        def begin() -> set[Any]:
            number = next(left, None) if time.monotonic() < until else None
            length = Length(examples=min(CHUNK, asked.examples), steps=asked.steps)
            return set() if number is None else {pool.submit(chunk, dsn, asked.seed, number, length, asked.hasty)}

        running: set[Any] = set()
        for _ in range(asked.processes):
            running |= begin()
        while running:
            ended = next(as_completed(running))
            running.remove(ended)
            running |= begin()
            yield ended.result()


def _tell(asked: argparse.Namespace, chunks: list[dict[str, Any]]) -> int:
    tally = Tally(seed=asked.seed)
    for one in chunks:
        tally.add(one)
    failures = [one for one in chunks if one["failure"]]
    found = {
        **tally.facts(),
        "steps_each": asked.steps,
        "seconds": round(sum(one["seconds"] for one in chunks)),
        "failures": [{"seed": one["seed"], "failure": one["failure"]} for one in failures],
    }
    (asked.folder / "property.json").write_text(json.dumps(found, indent=2) + "\n")
    print(tally)
    for one in failures:
        print(f"\nchunk {one['number']}, seed {one['seed']}:\n{one['failure']}")
    if missing := never(tally):
        print(f"never drawn: {', '.join(sorted(missing))}")
    print(f"{len(failures)} failures in {len(chunks)} chunks")
    return 1 if failures or missing else 0


def _read(file: Path) -> dict[int, dict[str, Any]]:
    if not file.exists():
        return {}
    return {one["number"]: one for one in map(json.loads, file.read_text().splitlines())}


@contextmanager
def _server() -> Iterator[str]:
    """A server of our own, which keeps its files in memory where it can, with a migrated database to copy."""
    base = MEMORY if MEMORY.is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="property-", dir=base) as folder,
        EmbeddedPostgres(Path(folder) / "postgres", durable=False, settings=SERVER) as postgres,
    ):
        migrate(postgres.dsn)
        yield urlsplit(postgres.dsn)._replace(path="/postgres").geturl()


if __name__ == "__main__":
    sys.exit(main())
