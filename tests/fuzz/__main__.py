"""`make fuzz`: the long form, against a server process and a PostgreSQL of its own. It prints its seed and its figures.

`python -m tests.fuzz [--seed N] [--examples N] [--folder DIR]`. At least CASES_MIN cases, or it has failed.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

import httpx

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.schema import migrate
from tests.e2e.processes import Plane
from tests.fuzz import campaign
from tests.fuzz.document import closed

CASES_MIN = 20_000
EXAMPLES = 40
KEY = "fuzz-key-of-nobody-else"
SERVER = {
    "CONTROLPLANE_API_KEY": KEY,
    "CONTROLPLANE_SYNC_WAIT_SECONDS": "1",
    "CONTROLPLANE_JOBS_TARGET": campaign.TARGET,
    "CONTROLPLANE_AGENT_TARGET": campaign.TARGET,
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
            plane.ready()
            document = httpx.get(f"{plane.url}/openapi.json", headers={"X-API-Key": KEY}).json()
            told = campaign.run(
                plane.url, KEY, closed(document), asked.folder, examples=asked.examples, seed=asked.seed
            )
        finally:
            plane.close()
    print(f"{told.cases} cases in {told.seconds:.0f} s, seed {asked.seed}")
    for name, count in told.failures.most_common():
        print(f"  {count} × {name}")
    print(f"{told.excused.total()} answers excused, each for a reason of tests/fuzz/reasons.py")
    for why, count in told.excused.most_common():
        print(f"  {count} × {why}")
    if told.cases < CASES_MIN:
        print(f"fewer than {CASES_MIN} cases: raise --examples")
    if told.status:
        print(told.text[-10_000:])
    broken = [line for line in plane.log().splitlines() if "request.broken" in line or "daemon.died" in line]
    print(f"{len(broken)} errors in the log of the server", *broken[:5], sep="\n")
    return int(bool(told.status or told.failures or broken or told.cases < CASES_MIN))


if __name__ == "__main__":
    sys.exit(main())
