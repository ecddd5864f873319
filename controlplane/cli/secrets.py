"""`controlplane secrets …`: which keys the stored secrets are sealed with, and sealing them anew with the newest."""

from __future__ import annotations

from collections import Counter

import orjson

from controlplane.cli import output
from controlplane.cli.database import ask, dsn_of, require_newest
from controlplane.cli.environment import settings_with
from controlplane.cli.failure import ExitCode, Failure
from controlplane.domain.placement import Placement
from controlplane.postgres.pool import Connection
from controlplane.security.secrets import UNKNOWN_KID, KeyRing
from controlplane.settings import Settings
from controlplane.stages import reseal
from controlplane.stages.reseal import PLACES, Cursor, Resealed

ROUNDS_MAX = 5
"""Rounds through everything, until one finds nothing that somebody else has changed under it."""
NO_RING = "Set CONTROLPLANE_SECRET_KEY to the ring that the servers have."

Counts = dict[str, Counter[str]]


def status(*, database_url: str | None, as_json: bool) -> None:
    """Print how many values lie under each key, and which keys may go."""
    dsn, ring, placement = _before(database_url)
    _show(ring, ask(dsn, lambda conn: _counts(conn, placement, ring)), as_json=as_json)


def reseal_all(*, database_url: str | None, as_json: bool) -> None:
    """Seal anew whatever is not under the key in front, in small batches, beside servers that run."""
    dsn, ring, placement = _before(database_url)

    async def work(conn: Connection) -> tuple[Resealed, Counts]:
        return await _reseal(conn, placement, ring), await _counts(conn, placement, ring)

    done, counts = ask(dsn, work)
    if not as_json:
        output.say(f"{done.anew:,} sealed anew.")
    _show(ring, counts, as_json=as_json, resealed=done)


async def _reseal(conn: Connection, placement: Placement, ring: KeyRing) -> Resealed:
    total = Resealed()
    for _ in range(ROUNDS_MAX):
        one = await _round(conn, placement, ring)
        total.anew += one.anew
        total.left, total.broken = one.left, one.broken
        if not (one.anew or one.left):
            break
    return total


async def _round(conn: Connection, placement: Placement, ring: KeyRing) -> Resealed:
    done = Resealed()
    for bucket in placement.all():
        for place in PLACES:
            after: Cursor | None = Cursor()
            while after is not None:
                part = await reseal.batch(conn, bucket, place, ring, after=after)
                done.add(part.done)
                after = part.after
    return done


async def _counts(conn: Connection, placement: Placement, ring: KeyRing) -> Counts:
    found: Counts = {place.name: Counter() for place in PLACES}
    for bucket in placement.all():
        for place in PLACES:
            found[place.name] += await reseal.counts(conn, bucket, place, ring)
    return found


def _show(ring: KeyRing, counts: Counts, *, as_json: bool, resealed: Resealed | None = None) -> None:
    total: Counter[str] = sum(counts.values(), Counter())
    gone = [kid for kid in ring.kids[1:] if not total[kid]]
    missing = {kid: n for kid, n in sorted(total.items()) if kid not in ring.kids}
    if as_json:
        shape: dict[str, object] = {
            "current": ring.current,
            "keys": list(ring.kids),
            "values": {name: dict(sorted(found.items())) for name, found in counts.items()},
            "removable": gone,
            "missing": missing,
        }
        if resealed is not None:
            shape |= {"resealed": resealed.anew, "left": resealed.left, "broken": resealed.broken}
        output.data(orjson.dumps(shape))
    else:
        kids = [*ring.kids, *missing]
        output.table(("VALUES", *kids), ((name, *(str(found[kid]) for kid in kids)) for name, found in counts.items()))
    for kid in gone:
        output.say(f"Key {kid} may be taken out of the ring, once {ring.current} stands in front on every server.")
    for kid, n in missing.items():
        output.complain(f"{n:,} sealed with {_named(kid)}, which is not on the ring: they cannot be opened.")
    if resealed is not None and resealed.broken:
        output.complain(f"{resealed.broken:,} could not be opened and stay as they are.")
    if resealed is not None and resealed.left:
        output.say(f"{resealed.left:,} are being changed by somebody else. Run it again.")


def _named(kid: str) -> str:
    return "no key of ours" if kid == UNKNOWN_KID else f"key {kid}"


def _before(database_url: str | None) -> tuple[str, KeyRing, Placement]:
    settings = settings_with(database_url=database_url)
    dsn = dsn_of(settings)
    ring = _ring(settings)
    require_newest(dsn, patience_seconds=0)
    return dsn, ring, Placement(buckets=settings.buckets, hashed=settings.buckets_hashed)


def _ring(settings: Settings) -> KeyRing:
    """The ring of the environment, else that of `dev`."""
    file = settings.data_dir / "secret.key"
    given = settings.secret_key.get_secret_value() if settings.secret_key else ""
    try:
        if given or file.exists():
            return KeyRing.from_text(given or file.read_text(encoding="ascii"))
    except (ValueError, OSError) as error:
        where = "CONTROLPLANE_SECRET_KEY" if given else str(file)
        raise Failure(f"{where} holds no key ring: {error}.", fix=NO_RING, code=ExitCode.USAGE) from None
    raise Failure("There is no key ring.", fix=NO_RING, code=ExitCode.USAGE)
