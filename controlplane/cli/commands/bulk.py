"""One action on everything that a filter matches."""

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
    ErrorClass,
    OfNode,
    OfRun,
    Server,
    SessionKey,
    Target,
    again,
    client_of,
)

BulkId = Annotated[str, typer.Argument(metavar="BULK", help="Its id, bulk_….")]
app = typer.Typer(help="Do one thing to everything that a filter matches: the server goes on by itself.")
BULK_ACTIONS = {
    "cancel": "Cancel executions that have not ended.",
    "retry": "Ask once more what has failed or timed out; what has a retry already is skipped.",
    "redrive_deliveries": "Send webhooks again that are dead.",
    "pause": "Hold executions back; an attempt that runs goes on to its end.",
    "resume": "Let paused executions go on.",
}


def _bulk_command(action: str, said: str) -> None:
    """The command of one action: they differ in nothing but the word."""

    @app.command(action.replace("_", "-"), help=said)
    def begin(
        status: Annotated[
            list[str] | None, typer.Option("--status", help="Only those of this status; may be repeated.")
        ] = None,
        target: Target = None,
        node_id: OfNode = None,
        run_id: OfRun = None,
        session: SessionKey = None,
        actor: ActorKey = None,
        error_class: ErrorClass = None,
        host: Annotated[
            str | None, typer.Option("--host", metavar="HOST:PORT", help="Of deliveries: to this receiver.")
        ] = None,
        created_after: CreatedAfter = None,
        created_before: CreatedBefore = None,
        ended_after: EndedAfter = None,
        ended_before: EndedBefore = None,
        ids: Annotated[list[str] | None, typer.Option("--id", help="This one and no others; may be repeated.")] = None,
        everything: Annotated[bool, typer.Option("--all", help="Every one, in place of a filter.")] = False,
        reason: Annotated[str | None, typer.Option("--reason", help="Why, for those who look at it later.")] = None,
        reuse: Annotated[
            str | None, typer.Option("--reuse", help="Of a retry: succeeded-before (the default) or none.")
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")] = False,
        wait: Annotated[bool, typer.Option("--wait", help="Until it is over.")] = False,
        timeout: Annotated[
            float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Stop waiting; it goes on.")
        ] = None,
        server: Server = DEFAULT_SERVER,
        api_key: ApiKey = None,
        as_json: AsJson = False,
    ) -> None:
        from controlplane.cli.bulk import begin as run

        filter_ = {
            "status": status,
            "target": target,
            "node_id": node_id,
            "run_id": run_id,
            "session_key": session,
            "actor_key": actor,
            "error_class": error_class,
            "host": host,
            "created_after": created_after,
            "created_before": created_before,
            "ended_after": ended_after,
            "ended_before": ended_before,
            "ids": ids,
        }
        with client_of(server, api_key) as client:
            run(
                client,
                action,
                filter_,
                everything=everything,
                reason=reason,
                reuse=reuse,
                dry_run=dry_run,
                wait=wait,
                timeout_seconds=timeout,
                again=again(server, "bulk show"),
                as_json=as_json,
            )


for _action, _said in BULK_ACTIONS.items():
    _bulk_command(_action, _said)


@app.command("list")
def bulk_list(
    state: Annotated[str | None, typer.Option("--state", help="running, done, stopped or failed.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List bulks, newest first."""
    from controlplane.cli.bulk import listing

    with client_of(server, api_key) as client:
        listing(client, state=state, limit=limit, cursor=cursor, as_json=as_json)


@app.command("show")
def bulk_show(
    bulk_id: BulkId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show how far a bulk is, and what became of what."""
    from controlplane.cli.bulk import show

    with client_of(server, api_key) as client:
        show(client, bulk_id, as_json=as_json)


@app.command("stop")
def bulk_stop(
    bulk_id: BulkId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Stop a bulk before its next batch; what was done stays done."""
    from controlplane.cli.bulk import stop

    with client_of(server, api_key) as client:
        stop(client, bulk_id, as_json=as_json)
