"""Webhooks that nobody took."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import (
    DEFAULT_SERVER,
    ApiKey,
    AsJson,
    EndedAfter,
    EndedBefore,
    OfNode,
    OfRun,
    Server,
    Target,
    client_of,
)

app = typer.Typer(help="List webhook deliveries that are dead, and send them again.")


@app.command("list")
def deliveries_list(
    target: Target = None,
    node_id: OfNode = None,
    run_id: OfRun = None,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST:PORT", help="To this receiver.")] = None,
    ended_after: EndedAfter = None,
    ended_before: EndedBefore = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List deliveries that are dead, newest first."""
    from controlplane.cli.deliveries import listing

    query = {
        "state": "dead",
        "target": target,
        "node_id": node_id,
        "run_id": run_id,
        "host": host,
        "ended_after": ended_after,
        "ended_before": ended_before,
        "limit": limit,
        "cursor": cursor,
    }
    with client_of(server, api_key) as client:
        listing(client, query, as_json=as_json)


@app.command("retry")
def deliveries_retry(
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id, dlv_….")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Send one delivery again, now; many at once: bulk redrive-deliveries."""
    from controlplane.cli.deliveries import retry

    with client_of(server, api_key) as client:
        retry(client, delivery_id, as_json=as_json)
