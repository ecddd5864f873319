"""`controlplane migrate`: bring the database to the newest schema."""

from __future__ import annotations

import orjson

from controlplane.cli import output
from controlplane.cli.database import bring_up, dsn_of
from controlplane.cli.environment import settings_with
from controlplane.observe.log import configure


def migrate(*, database_url: str | None, as_json: bool) -> None:
    """Migrate, and print where the database was and is."""
    settings = settings_with(database_url=database_url)
    configure("WARNING", pretty=False)
    before, now = bring_up(dsn_of(settings))
    if as_json:
        output.data(orjson.dumps({"before": before, "revision": now}))
    else:
        output.data(f"The schema is at {now}" + (", as before." if before == now else "."))
