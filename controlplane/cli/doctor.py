"""`controlplane doctor`: look at everything that dev, serve and call need, and name the next step where it lacks."""

from __future__ import annotations

import platform
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from urllib.parse import urlsplit

import orjson
import typer

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, Unreachable
from controlplane.cli.database import ask, place
from controlplane.cli.environment import settings_with
from controlplane.cli.failure import ExitCode, Failure
from controlplane.postgres.embedded import EmbeddedPostgresError
from controlplane.postgres.footing import find_binaries
from controlplane.postgres.pins import PINNED_SECONDS, Pins, ends, pins, says
from controlplane.postgres.pool import Connection
from controlplane.postgres.roles import Standing, standing
from controlplane.postgres.schema import behind, head
from controlplane.security.secrets import KeyRing
from controlplane.settings import Settings

OLDEST_PYTHON = (3, 11)
CLOCK = "select extract(epoch from clock_timestamp())::float8"
SKEW_SECONDS_MAX = 5.0


class State(StrEnum):
    OK = "ok"
    FAILED = "failed"
    ADVICE = "advice"
    NOT_NEEDED = "not_needed"


MARK = {State.OK: "✓", State.FAILED: "✗", State.ADVICE: "!", State.NOT_NEEDED: "-"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    state: State
    detail: str
    fix: str | None = None


def doctor(*, server: str, server_given: bool, api_key: str | None, database_url: str | None, as_json: bool) -> None:
    """Print every check; exit 1 if one failed."""
    checks = []
    for check in _checks(server, server_given, api_key, database_url):
        checks.append(check)
        if not as_json:
            next_step = f" → {check.fix}" if check.fix else ""
            output.data(output.plain(f"{MARK[check.state]} {check.name}: {check.detail}{next_step}"))
    healthy = all(check.state is not State.FAILED for check in checks)
    if as_json:
        output.data(orjson.dumps({"ok": healthy, "checks": [asdict(check) for check in checks]}))
    if not healthy:
        raise typer.Exit(ExitCode.INTERNAL)


def _checks(server: str, server_given: bool, api_key: str | None, database_url: str | None) -> Iterator[Check]:
    yield _python()
    try:
        settings = settings_with(database_url=database_url)
    except Failure as failure:
        yield Check(name="settings", state=State.FAILED, detail=failure.what, fix=failure.fix)
        settings = Settings.model_construct()
    yield _binaries(settings)
    yield from _database(settings)
    yield _keyring(settings)
    reached = _server(server, server_given, api_key)
    yield reached
    yield _port(settings, server, served=reached.state is State.OK)


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Check(name="python", state=State.FAILED, detail=f"{found} is too old", fix=f"Use {oldest} or newer.")
    return Check(name="python", state=State.OK, detail=found)


def _binaries(settings: Settings) -> Check:
    name = "postgresql programs"
    try:
        found = find_binaries()
    except EmbeddedPostgresError as error:
        if settings.database_url:
            return Check(name=name, state=State.NOT_NEEDED, detail="none found; DATABASE_URL is set")
        return Check(name=name, state=State.FAILED, detail=error.detail.partition("\n")[0], fix=error.fix)
    version = ".".join(map(str, found.version))
    return Check(name=name, state=State.OK, detail=f"{version} in {found.folder} ({found.source})")


def _database(settings: Settings) -> Iterator[Check]:
    name = "database"
    if not settings.database_url:
        yield Check(
            name=name, state=State.NOT_NEEDED, detail="DATABASE_URL is not set; `controlplane dev` brings its own"
        )
        return
    where = place(settings.database_url)
    try:
        major, at, ahead, role, found = ask(settings.database_url, _look)
    except Failure as failure:
        yield Check(name=name, state=State.FAILED, detail=failure.what, fix=failure.fix)
        return
    yield Check(name=name, state=State.OK, detail=f"PostgreSQL {major} at {where}")
    if at is None:
        yield Check(name="schema", state=State.OK, detail=f"at {head()} or newer")
    else:
        yield Check(
            name="schema",
            state=State.FAILED,
            detail="empty" if at == "empty" else f"at {at}, behind {head()}",
            fix="Run `controlplane migrate`.",
        )
    skewed = abs(ahead) > SKEW_SECONDS_MAX
    yield Check(
        name="clock",
        state=State.FAILED if skewed else State.OK,
        detail=f"the database's is {ahead:+.1f} s from ours",
        fix="Synchronize both machines (NTP)." if skewed else None,
    )
    yield _role(role)
    yield pinned(found)


def _role(role: Standing) -> Check:
    """No fault: whoever migrates asks, too. A server needs no more than to read and write rows."""
    name = "database role"
    if role.excess is None:
        return Check(name=name, state=State.OK, detail=f"{role.name} reads and writes rows and nothing else")
    return Check(
        name=name,
        state=State.ADVICE,
        detail=f"{role.name} {role.excess}: good to migrate, more than a server needs",
        fix="Make one for the server: `controlplane database roles`.",
    )


def pinned(found: Pins) -> Check:
    """Who holds a snapshot, and how to end that: a queue gets slower for as long as somebody does."""
    name = "snapshots"
    if found.found:
        detail = "; ".join(map(says, found.found))
        return Check(name=name, state=State.ADVICE, detail=detail, fix="; ".join(map(ends, found.found)))
    detail = f"none is held for longer than {PINNED_SECONDS:.0f} s"
    if found.unseen:
        detail += f" by this role; of {found.unseen} sessions of others it sees nothing without pg_read_all_stats"
    return Check(name=name, state=State.OK, detail=detail)


async def _look(conn: Connection) -> tuple[int, str | None, float, Standing, Pins]:
    asked = time.time()
    theirs: float = await conn.fetchval(CLOCK)
    ours = (asked + time.time()) / 2
    found = await pins(conn, longer_than_seconds=PINNED_SECONDS)
    return conn.get_server_version().major, await behind(conn), theirs - ours, await standing(conn), found


def _keyring(settings: Settings) -> Check:
    name = "secret key"
    file = settings.data_dir / "secret.key"
    given = settings.secret_key.get_secret_value() if settings.secret_key else ""
    try:
        if given:
            KeyRing.from_text(given)
            return Check(name=name, state=State.OK, detail="in CONTROLPLANE_SECRET_KEY")
        if file.exists():
            KeyRing.from_text(file.read_text(encoding="ascii"))
            return Check(name=name, state=State.OK, detail=f"in {file}")
    except (ValueError, OSError) as error:
        where = "CONTROLPLANE_SECRET_KEY" if given else str(file)
        return Check(name=name, state=State.FAILED, detail=f"{where} holds no key ring: {error}", fix="Put it back.")
    if settings.database_url:
        fix = "serve needs CONTROLPLANE_SECRET_KEY: controlplane generate-secret-key"
        return Check(name=name, state=State.FAILED, detail="none", fix=fix)
    return Check(name=name, state=State.NOT_NEEDED, detail="none yet; `controlplane dev` makes one")


def _server(server: str, given: bool, api_key: str | None) -> Check:
    name = "server"
    try:
        with Client(server, api_key) as client:
            client.get("/readyz", about="readyz")
            client.get(f"{PREFIX}/nodes")  # the one that wants the key
            return Check(name=name, state=State.OK, detail=f"{client.url} is ready and lets us in")
    except Unreachable as failure:
        if not given and "No server answers" in failure.what:
            return Check(name=name, state=State.NOT_NEEDED, detail=f"none at {server}", fix="controlplane dev")
        return Check(name=name, state=State.FAILED, detail=failure.what, fix=failure.fix)
    except Failure as failure:
        return Check(name=name, state=State.FAILED, detail=failure.what, fix=failure.fix)


def _port(settings: Settings, server: str, *, served: bool) -> Check:
    name = "port"
    where = f"{settings.host}:{settings.port}"
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        ours = served and urlsplit(server).port == settings.port
        if ours:
            return Check(name=name, state=State.OK, detail=f"{where} is taken by the server above")
        return Check(
            name=name,
            state=State.FAILED,
            detail=f"nobody may listen on {where}: {error.strerror or error}",
            fix="Choose another with CONTROLPLANE_PORT; dev takes the next free one by itself.",
        )
    return Check(name=name, state=State.OK, detail=f"{where} is free")
