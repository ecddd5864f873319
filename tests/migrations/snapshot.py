"""The whole data model on one page: what pg_dump says of a migrated database, without what changes by itself.

python -m tests.migrations.snapshot      writes migrations/schema.sql anew
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from controlplane.postgres.embedded import EmbeddedPostgres
from controlplane.postgres.footing import find_binaries
from controlplane.postgres.schema import migrate

FILE = Path(__file__).parents[2] / "migrations" / "schema.sql"
HEAD = "-- The data model, dumped from the migrations by `make schema`; a test compares. Without weekly partitions.\n"
NOISE = re.compile(r"^(--.*|\\(un)?restrict .*|SET .*|SELECT pg_catalog\.set_config.*)?\n", re.MULTILINE)
STATEMENT = re.compile(r"^(?=CREATE|ALTER)", re.MULTILINE)


def dump(dsn: str) -> str:
    """The schema of this database as text that only a migration changes."""
    binaries = find_binaries().folder
    command = [binaries / "pg_dump", "--schema-only", "--no-owner", "--no-privileges", "-T", "*_20[0-9][0-9]_*", dsn]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return HEAD + STATEMENT.sub("\n", NOISE.sub("", done.stdout))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "pg", durable=False) as postgres:
        migrate(postgres.dsn)
        FILE.write_text(dump(postgres.dsn))


if __name__ == "__main__":
    main()
