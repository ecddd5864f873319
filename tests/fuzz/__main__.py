"""`make fuzz`: the long form, against a server process and a PostgreSQL of its own. It prints its seed and its figures.

The phases run side by side, in processes of their own. At least CASES_MIN cases, or it has failed.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import migrate
from tests.e2e.processes import Plane, until
from tests.fuzz import campaign
from tests.fuzz.document import closed

CASES_MIN = 20_000
EXAMPLES = 60
START_SECONDS = 120.0
"""Long, because a campaign is often one of several things that a machine does."""
PARTS = {
    "coverage": (("examples", "coverage"), 1),
    "fuzzing": (("fuzzing",), 1),
    "stateful": (("stateful",), 5),
}
"""Phases, and how many times `--examples` each draws: for each operation, or sequences along the links in all."""
KEY = "fuzz-key-of-nobody-else"
SERVER = {
    "CONTROLPLANE_API_KEY": KEY,
    "CONTROLPLANE_SYNC_WAIT_SECONDS": "1",
    "CONTROLPLANE_JOBS_TARGET": campaign.TARGET,
    "CONTROLPLANE_AGENT_TARGET": campaign.TARGET,
    "CONTROLPLANE_ENDPOINTS_MAX": "1000",
    "CONTROLPLANE_WRONG_KEYS_PER_MINUTE": "1000000",
}


def main() -> int:
    """0 when enough was asked and nothing failed."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="drawn for each operation by the fuzzing phase")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "controlplane-fuzz")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {asked.seed}, report in {asked.folder}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
        EmbeddedPostgres(Path(folder) / "postgres", durable=False) as postgres,
    ):
        migrate(postgres.dsn)
        plane = Plane(postgres.dsn, folder=asked.folder, env=SERVER)
        plane.start()
        try:
            until("the server to be ready", partial(_ready, plane.url), seconds=START_SECONDS)
            document = closed(httpx.get(f"{plane.url}/openapi.json", headers={"X-API-Key": KEY}).json())

            def part(name: str) -> campaign.Told:
                phases, times = PARTS[name]
                return campaign.run(
                    plane.url,
                    KEY,
                    document,
                    asked.folder / name,
                    examples=asked.examples * times,
                    seed=asked.seed,
                    phases=phases,
                )

            with ThreadPoolExecutor(len(PARTS)) as parts:
                told = dict(zip(PARTS, parts.map(part, PARTS), strict=True))
        finally:
            plane.close()
    cases = sum(one.cases for one in told.values())
    failures = sum((one.failures for one in told.values()), Counter[str]())
    excused = sum((one.excused for one in told.values()), Counter[str]())
    for name, one in told.items():
        print(f"{name}: {one.cases} cases in {one.seconds:.0f} s, {one.failures.total()} failures")
        if one.status:
            print(one.text[-10_000:])
    print(f"{cases} cases, seed {asked.seed}; {failures.total()} failures {dict(failures)}")
    print(f"{excused.total()} answers excused, each for a reason of tests/fuzz/reasons.py")
    for why, count in excused.most_common():
        print(f"  {count} × {why}")
    if cases < CASES_MIN:
        print(f"fewer than {CASES_MIN} cases: raise --examples")
    broken = [line for line in plane.log().splitlines() if "request.broken" in line or "daemon.broken" in line]
    print(f"{len(broken)} errors in the log of the server", *broken[:5], sep="\n")
    return int(bool(any(one.status for one in told.values()) or failures or broken or cases < CASES_MIN))


def _ready(url: str) -> bool:
    return httpx.get(f"{url}/readyz", timeout=5).status_code == 200


if __name__ == "__main__":
    sys.exit(main())
