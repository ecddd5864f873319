"""`controlplane system`: what an operator looks at first when all of it is slow."""

from __future__ import annotations

import msgspec

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client

PATH = f"{PREFIX}/system"


class Pin(msgspec.Struct):
    detail: str
    fix: str


class Table(msgspec.Struct):
    name: str
    live: int
    dead: int
    vacuumed_at: str | None = None


class Standby(msgspec.Struct):
    name: str | None = None
    state: str | None = None
    sync: str | None = None
    lag_seconds: float | None = None
    lag_bytes: int | None = None


class System(msgspec.Struct):
    version: str
    postgresql_version: str
    schema_version: str | None
    schema_version_known: str
    oldest_ready_seconds: int
    oldest_due_delivery_seconds: int
    counted_seconds_ago: float | None
    oldest_snapshot_seconds: float
    pins: list[Pin]
    tables: list[Table]
    standbys: list[Standby]
    pins_unseen: int = 0


def show(client: Client, *, as_json: bool) -> None:
    """Print it: numbers first, then who pins and who is behind."""
    body = client.get(PATH)
    if as_json:
        output.data(body)
        return
    it = msgspec.json.decode(body, type=System)
    output.facts(
        (
            ("version", it.version),
            ("postgresql", it.postgresql_version),
            ("schema", it.schema_version),
            ("schema known", it.schema_version_known),
            ("oldest ready", f"{it.oldest_ready_seconds} s"),
            ("oldest due delivery", f"{it.oldest_due_delivery_seconds} s"),
            ("counted", "not yet" if it.counted_seconds_ago is None else f"{it.counted_seconds_ago:.0f} s ago"),
            ("oldest snapshot", f"{it.oldest_snapshot_seconds:.0f} s"),
            *(("pinned", f"{pin.detail} → {pin.fix}") for pin in it.pins),
            *((("sessions unseen", it.pins_unseen),) if it.pins_unseen else ()),
            *(() if it.standbys else (("standbys", "none"),)),
        )
    )
    if it.standbys:
        output.table(
            ("STANDBY", "STATE", "KIND", "BEHIND", "NOT REPLAYED"),
            (
                (
                    one.name or "",
                    one.state or "",
                    one.sync or "",
                    "" if one.lag_seconds is None else f"{one.lag_seconds:.1f} s",
                    "" if one.lag_bytes is None else f"{one.lag_bytes} B",
                )
                for one in it.standbys
            ),
        )
    output.table(
        ("TABLE", "DEAD", "LIVE", "VACUUMED"),
        ((one.name, str(one.dead), str(one.live), output.moment(one.vacuumed_at)) for one in it.tables),
    )
