"""Webhooks: who was told, who was not, and telling them again."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import (
    DEFAULT_SERVER,
    ActorKey,
    ApiKey,
    AsJson,
    CreatedAfter,
    CreatedBefore,
    EndedAfter,
    EndedBefore,
    OfNode,
    OfRun,
    Server,
    SessionKey,
    Target,
    again,
    client_of,
)

app = typer.Typer(help="List webhook deliveries, follow all of them in order, and send them again.")
DeliveryId = Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id, dlv_….")]
Host = Annotated[str | None, typer.Option("--host", metavar="HOST:PORT", help="To this receiver.")]
Event = Annotated[str | None, typer.Option("--event", metavar="EVENT", help="Of this event: execution.completed.")]
OfExecution = Annotated[
    str | None, typer.Option("--execution", "--execution-id", metavar="EXECUTION", help="Of one execution.")
]
OfEndpoint = Annotated[
    str | None, typer.Option("--endpoint", "--endpoint-id", metavar="ENDPOINT", help="To one registered endpoint.")
]


@app.command("list")
def deliveries_list(
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help="pending, leased, delivered or dead (the default); may be repeated."),
    ] = None,
    any_state: Annotated[bool, typer.Option("--any-state", help="Whatever their state.")] = False,
    event: Event = None,
    target: Target = None,
    node_id: OfNode = None,
    run_id: OfRun = None,
    execution_id: OfExecution = None,
    endpoint_id: OfEndpoint = None,
    host: Host = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    ended_after: EndedAfter = None,
    ended_before: EndedBefore = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List deliveries that are dead, or of another state, newest first."""
    from controlplane.cli.deliveries import listing

    query = {
        "state": None if any_state else ",".join(state or ["dead"]),
        "event": event,
        "target": target,
        "node_id": node_id,
        "run_id": run_id,
        "execution_id": execution_id,
        "endpoint_id": endpoint_id,
        "host": host,
        "created_after": created_after,
        "created_before": created_before,
        "ended_after": ended_after,
        "ended_before": ended_before,
        "limit": limit,
        "cursor": cursor,
    }
    with client_of(server, api_key) as client:
        listing(client, query, as_json=as_json)


@app.command("show")
def deliveries_show(
    delivery_id: DeliveryId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show one delivery: every attempt, what was answered, and the body."""
    from controlplane.cli.deliveries import show

    with client_of(server, api_key) as client:
        show(client, delivery_id, as_json=as_json)


@app.command("follow")
def deliveries_follow(
    after: Annotated[
        str, typer.Option("--after", metavar="CURSOR", help="Where to begin: a cursor, beginning or now.")
    ] = "now",
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Of those in this state now; may be repeated.")
    ] = None,
    event: Event = None,
    execution_id: OfExecution = None,
    endpoint_id: OfEndpoint = None,
    host: Host = None,
    created_after: CreatedAfter = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Go on for ever, or end with the last.")] = True,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print every delivery in the order in which it came to be; --json has the bodies and cursors."""
    from controlplane.cli.deliveries import follow

    query = {
        "include": "body" if as_json else None,
        "state": ",".join(state) if state else None,
        "event": event,
        "execution_id": execution_id,
        "endpoint_id": endpoint_id,
        "host": host,
        "created_after": created_after,
    }
    with client_of(server, api_key) as client:
        follow(
            client,
            query,
            after=after,
            wait=wait,
            again=again(server, "deliveries follow") + " --after",
            as_json=as_json,
        )


@app.command("retry")
def deliveries_retry(
    delivery_id: DeliveryId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Send one delivery again, now; many at once: deliveries replay."""
    from controlplane.cli.deliveries import retry

    with client_of(server, api_key) as client:
        retry(client, delivery_id, as_json=as_json)


@app.command("replay")
def deliveries_replay(
    state: Annotated[
        list[str] | None, typer.Option("--state", help="delivered, dead, or both (the default); may be repeated.")
    ] = None,
    event: Event = None,
    target: Target = None,
    node_id: OfNode = None,
    run_id: OfRun = None,
    endpoint_id: OfEndpoint = None,
    host: Host = None,
    session: SessionKey = None,
    actor: ActorKey = None,
    created_after: CreatedAfter = None,
    created_before: CreatedBefore = None,
    ended_after: EndedAfter = None,
    ended_before: EndedBefore = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="This one and no others; may be repeated.")] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Also if they are more than 10,000.")] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for those who look at it later.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is over.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Stop waiting; it goes on.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Send all that match again, with the same ids and bytes, a few at a time: see bulk show, bulk stop."""
    from controlplane.cli.bulk import begin

    filter_ = {
        "state": state or ["delivered", "dead"],
        "event": event,
        "target": target,
        "node_id": node_id,
        "run_id": run_id,
        "endpoint_id": endpoint_id,
        "host": host,
        "session_key": session,
        "actor_key": actor,
        "created_after": created_after,
        "created_before": created_before,
        "ended_after": ended_after,
        "ended_before": ended_before,
        "ids": ids,
    }
    with client_of(server, api_key) as client:
        begin(
            client,
            "redrive_deliveries",
            filter_,
            everything=False,
            reason=reason,
            reuse=None,
            dry_run=dry_run,
            wait=wait,
            timeout_seconds=timeout,
            again=again(server, "bulk show"),
            as_json=as_json,
            confirm=confirm,
        )
