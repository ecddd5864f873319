"""The database itself, apart from what is in it."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import AsJson

app = typer.Typer(help="Set up who may do what in the database.")


@app.callback()
def database() -> None:
    """Set up who may do what in the database."""


@app.command("roles")
def database_roles(
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="Who the server connects as; made where there is none.")
    ] = "controlplane_app",
    database_url: Annotated[
        str | None,
        typer.Option("--database-url", metavar="DSN", help="As the role that migrates (else DATABASE_URL)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a role for the server that reads and writes rows and cannot change the schema; safe to run again."""
    from controlplane.cli.roles import roles

    roles(role=role, database_url=database_url, as_json=as_json)
