"""How many of a key may be under way."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import DEFAULT_SERVER, ApiKey, AsJson, Server, client_of

LimitKey = Annotated[
    str, typer.Argument(metavar="KEY", help="reasoner:node_id.reasoner_name, node:node_id or key:concurrency_key")
]
app = typer.Typer(help="List, show, set and delete limits.")


@app.command("list")
def limits_list(
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List limits by key, with what each holds and how many it blocks."""
    from controlplane.cli.limits import listing

    with client_of(server, api_key) as client:
        listing(client, limit=limit, cursor=cursor, as_json=as_json)


@app.command("show")
def limits_show(
    key: LimitKey, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show one limit, with what it holds and how many it blocks."""
    from controlplane.cli.limits import show

    with client_of(server, api_key) as client:
        show(client, key, as_json=as_json)


@app.command("set")
def limits_set(
    key: LimitKey,
    concurrency_max: Annotated[
        int | None, typer.Option("--concurrency-max", min=0, metavar="N", help="How many may be under way at once.")
    ] = None,
    rate_max: Annotated[
        int | None, typer.Option("--rate-max", min=0, metavar="N", help="How many may begin in any --rate-seconds.")
    ] = None,
    rate_seconds: Annotated[
        float | None, typer.Option("--rate-seconds", min=0, metavar="SECONDS", help="The window of --rate-max.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Set the limit of a reasoner, a node or a concurrency key."""
    from controlplane.cli.limits import put

    with client_of(server, api_key) as client:
        put(
            client,
            key,
            concurrency_max=concurrency_max,
            rate_max=rate_max,
            rate_seconds=rate_seconds,
            as_json=as_json,
        )


@app.command("delete")
def limits_delete(
    key: LimitKey, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete a limit; what waited for it is let in."""
    from controlplane.cli.limits import delete

    with client_of(server, api_key) as client:
        delete(client, key, as_json=as_json)
