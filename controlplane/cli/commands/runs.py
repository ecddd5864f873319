"""What is done with all executions of one run."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import DEFAULT_SERVER, ApiKey, AsJson, Run, Server, client_of

app = typer.Typer(help="List, show and cancel runs.")


@app.command("list")
def runs_list(
    target: Annotated[str | None, typer.Option("--target", help="node_id.reasoner_name of the first one.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first, with how far each is."""
    from controlplane.cli.runs import listing

    with client_of(server, api_key) as client:
        listing(client, target=target, limit=limit, cursor=cursor, as_json=as_json)


@app.command("show")
def runs_show(
    run_id: Run,
    limit: Annotated[int, typer.Option("--limit", min=0, help="How many executions at most, the oldest.")] = 200,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a run is, and the tree of its executions."""
    from controlplane.cli.runs import show

    with client_of(server, api_key) as client:
        show(client, run_id, limit=limit, as_json=as_json)


@app.command("cancel")
def runs_cancel(
    run_id: Run,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for those who look at it later.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Cancel everything unfinished of a run."""
    from controlplane.cli.runs import cancel

    with client_of(server, api_key) as client:
        cancel(client, run_id, reason=reason, as_json=as_json)
