"""`controlplane database roles`: a role for the server, beside the one that migrates."""

from __future__ import annotations

from functools import partial

import asyncpg
import orjson

from controlplane.cli import output
from controlplane.cli.database import ask, dsn_of, place, require_newest
from controlplane.cli.environment import settings_with
from controlplane.cli.failure import ExitCode, Failure
from controlplane.observe.log import configure
from controlplane.postgres.pool import Connection
from controlplane.postgres.roles import separate


def roles(*, role: str, database_url: str | None, as_json: bool) -> None:
    """Grant what a server needs, and say what is left to do."""
    settings = settings_with(database_url=database_url)
    configure("WARNING", pretty=False)
    dsn = dsn_of(settings)
    require_newest(dsn, patience_seconds=0)
    ask(dsn, partial(_separate, role=role))
    if as_json:
        output.data(orjson.dumps({"role": role}))
        return
    output.data(f"{role} may read and write every row of {place(dsn)}, and nothing else.")
    output.say(f"Give it a password (psql: \\password {role}) and name it in the server's DATABASE_URL.")


async def _separate(conn: Connection, *, role: str) -> None:
    try:
        await separate(conn, role)
    except asyncpg.InvalidParameterValueError as error:
        raise Failure(f"{str(error).capitalize()}.", fix="Name another with --role.", code=ExitCode.CONFLICT) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Failure(
            f"This role may not do that: {error}.",
            fix=f"Connect as the one that migrates; where it may make no roles: create role {role} login;",
            code=ExitCode.AUTH,
        ) from error
