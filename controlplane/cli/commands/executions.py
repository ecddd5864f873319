"""What is done with one execution, or with those of a list."""

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
    Delay,
    EndedAfter,
    EndedBefore,
    ErrorClass,
    ExecutionId,
    OfNode,
    OfRun,
    Reason,
    Server,
    SessionKey,
    Target,
    Timeout,
    again,
    client_of,
)

app = typer.Typer(help="List, show, explain, signal, pause, cancel, wait for, restart and retry executions.")


@app.command("list")
def executions_list(
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status", help="queued, running, waiting, succeeded, failed, cancelled or timeout; may be repeated."
        ),
    ] = None,
    target: Target = None,
    node_id: OfNode = None,
    run_id: OfRun = None,
    session: SessionKey = None,
    actor: ActorKey = None,
    error_class: ErrorClass = None,
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
    """List executions, newest first."""
    from controlplane.cli.executions import listing

    query = {
        "status": status,
        "target": target,
        "node_id": node_id,
        "run_id": run_id,
        "session_key": session,
        "actor_key": actor,
        "error_class": error_class,
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
def executions_show(
    execution_id: ExecutionId,
    events: Annotated[bool, typer.Option("--events", help="With everything that happened to it.")] = False,
    logs: Annotated[bool, typer.Option("--logs", help="With what it logged.")] = False,
    deliveries: Annotated[bool, typer.Option("--deliveries", help="With its webhook deliveries.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show one execution."""
    from controlplane.cli.executions import show

    with client_of(server, api_key) as client:
        show(client, execution_id, events=events, logs=logs, deliveries=deliveries, as_json=as_json)


@app.command("explain")
def executions_explain(
    execution_id: ExecutionId,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say in one sentence why an execution waits, or what it does, and what to do next."""
    from controlplane.cli.executions import explain

    with client_of(server, api_key) as client:
        explain(client, execution_id, command=lambda words: f"`{again(server, words)}`", as_json=as_json)


@app.command("attempts")
def executions_attempts(
    execution_id: ExecutionId,
    tracebacks: Annotated[bool, typer.Option("--tracebacks", help="With the traceback of each failure.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the attempts of an execution: where each ran, how long, and how it ended; the newest last."""
    from controlplane.cli.executions import attempts

    with client_of(server, api_key) as client:
        attempts(client, execution_id, tracebacks=tracebacks, as_json=as_json)


@app.command("pause")
def executions_pause(
    execution_id: ExecutionId,
    reason: Reason = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Hold an execution back; an attempt that runs goes on to its end."""
    from controlplane.cli.executions import pause

    with client_of(server, api_key) as client:
        pause(client, execution_id, reason=reason, as_json=as_json)


@app.command("resume")
def executions_resume(
    execution_id: ExecutionId,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let a paused execution go on."""
    from controlplane.cli.executions import resume

    with client_of(server, api_key) as client:
        resume(client, execution_id, as_json=as_json)


@app.command("cancel")
def executions_cancel(
    execution_id: ExecutionId,
    reason: Reason = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Cancel an execution."""
    from controlplane.cli.executions import cancel

    with client_of(server, api_key) as client:
        cancel(client, execution_id, reason=reason, as_json=as_json)


@app.command("wait")
def executions_wait(
    execution_id: ExecutionId,
    timeout: Timeout = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Wait for the end of an execution and print its result, as `call` does."""
    from controlplane.cli.executions import wait

    with client_of(server, api_key) as client:
        wait(client, execution_id, timeout_seconds=timeout, again=again(server), as_json=as_json)


@app.command("restart")
def executions_restart(
    execution_id: ExecutionId,
    scope: Annotated[
        str, typer.Option("--scope", help="workflow: its run, from the root; execution: this one by itself.")
    ] = "workflow",
    reuse: Annotated[
        str,
        typer.Option(
            "--reuse", help="Which calls are not made again: succeeded-before (this one), all-succeeded or none."
        ),
    ] = "succeeded-before",
    fork: Annotated[bool, typer.Option("--fork", help="Say that the new run is a branch, not a repair.")] = False,
    reason: Reason = None,
    input_given: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON|@FILE|-", help="Other arguments than before, as a JSON object."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Begin an execution again, in a new run with an empty memory, and print the new id."""
    from controlplane.cli.executions import restart

    with client_of(server, api_key) as client:
        restart(
            client,
            execution_id,
            scope=scope,
            reuse=reuse,
            fork=fork,
            reason=reason,
            input_given=input_given,
            again=again(server),
            as_json=as_json,
        )


@app.command("retry")
def executions_retry(
    execution_id: ExecutionId,
    reuse: Annotated[
        str,
        typer.Option(
            "--reuse", help="succeeded-before: calls that had succeeded are not made again; none: all are made again."
        ),
    ] = "succeeded-before",
    reason: Reason = None,
    delay: Delay = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Ask once more what has failed, in its run and with its memory, and print the new id."""
    from controlplane.cli.executions import retry

    with client_of(server, api_key) as client:
        retry(
            client,
            execution_id,
            reuse=reuse,
            reason=reason,
            delay_seconds=delay,
            again=again(server),
            as_json=as_json,
        )


@app.command("steps")
def executions_steps(
    execution_id: ExecutionId,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List what an execution has done once and for all, and what it waits for; the first one first."""
    from controlplane.cli.steps import steps

    with client_of(server, api_key) as client:
        steps(client, execution_id, as_json=as_json)


@app.command("signal")
def executions_signal(
    execution_id: ExecutionId,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="What has happened, e.g. deploy.approved.")],
    payload: Annotated[
        str | None, typer.Option("--payload", metavar="JSON", help="Any JSON; @file, or - for stdin.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", metavar="KEY", help="The same key again is the same signal.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Tell an execution that something has happened; one that does not wait for it yet will find it."""
    from controlplane.cli.steps import signal

    with client_of(server, api_key) as client:
        signal(client, execution_id, event, payload=payload, idempotency_key=idempotency_key, as_json=as_json)
