"""What secrets in the database are sealed with."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import AsJson

DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", metavar="DSN", help="PostgreSQL to use (else DATABASE_URL).")
]

app = typer.Typer(help="See which keys stored secrets are sealed with, and seal them anew.")


@app.command("status")
def secrets_status(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Count stored secrets by the key that they are sealed with, and name the keys that may go."""
    from controlplane.cli.secrets import status

    status(database_url=database_url, as_json=as_json)


@app.command("reseal")
def secrets_reseal(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Seal with the first key of CONTROLPLANE_SECRET_KEY what is under another; safe beside servers, and to repeat."""
    from controlplane.cli.secrets import reseal_all

    reseal_all(database_url=database_url, as_json=as_json)
