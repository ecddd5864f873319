"""Every command with its options, and nothing else: these pages are the reference that `--help` prints.

Here are the commands without a group; each group has a module. What does the work is imported by the command that needs
it: the server takes a second to import, and help must not.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controlplane import __version__
from controlplane.cli.commands import (
    approvals,
    audit,
    bulk,
    database,
    deliveries,
    endpoints,
    executions,
    keys,
    limits,
    nodes,
    runs,
    schedules,
    secrets,
    triggers,
)
from controlplane.cli.commands.options import (
    DEFAULT_SERVER,
    ApiKey,
    AsJson,
    Delay,
    Reason,
    Server,
    Timeout,
    again,
    client_of,
)
from controlplane.cli.failure import MEANING

PausedNode = Annotated[
    str | None, typer.Option("--node", metavar="NODE", help="A node, whatever processes it has or gets.")
]
PausedReasoner = Annotated[str | None, typer.Option("--reasoner", metavar="TARGET", help="node_id.reasoner_name")]
RunId = Annotated[str | None, typer.Option("--run-id", metavar="RUN", help="Join this run.")]
ActorId = Annotated[str | None, typer.Option("--actor-id", metavar="ID", help="The scope of actor memory.")]
SessionId = Annotated[str | None, typer.Option("--session-id", metavar="ID", help="The scope of session memory.")]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", metavar="DSN", help="PostgreSQL to use (else DATABASE_URL).")
]
Port = Annotated[
    int | None,
    typer.Option("--port", min=0, max=65535, help="Port to listen on (CONTROLPLANE_PORT, else 8080); 0: any free one."),
]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on (CONTROLPLANE_HOST, else 127.0.0.1).")]
EPILOG = "\n\n".join(["Exit codes:", *(f"{code.value} {meaning}" for code, meaning in MEANING.items())])
app = typer.Typer(
    name="controlplane",
    help="A durable execution control plane for AI agents, on PostgreSQL.",
    epilog=EPILOG,
    pretty_exceptions_enable=False,
)
app.add_typer(executions.app, name="executions")
app.add_typer(nodes.app, name="nodes")
app.add_typer(nodes.pauses_app, name="pauses")
app.add_typer(runs.app, name="runs")
app.add_typer(schedules.app, name="schedules")
app.add_typer(bulk.app, name="bulk")
app.add_typer(deliveries.app, name="deliveries")
app.add_typer(approvals.app, name="approvals")
app.add_typer(limits.app, name="limits")
app.add_typer(triggers.app, name="triggers")
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(keys.app, name="keys")
app.add_typer(keys.namespaces_app, name="namespaces")
app.add_typer(database.app, name="database")
app.add_typer(audit.app, name="audit")
app.add_typer(secrets.app, name="secrets")


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"controlplane {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def dev(
    agent_file: Annotated[
        Path | None, typer.Argument(metavar="AGENT.PY", help="An agent to run beside it.", show_default=False)
    ] = None,
    host: Host = None,
    port: Port = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder for database and keys (else .controlplane).")
    ] = None,
) -> None:
    """Run everything on this machine: a PostgreSQL of its own (or DATABASE_URL), the server, and perhaps an agent."""
    from controlplane.cli.dev import dev as run

    run(host=host, port=port, data_dir=data_dir, agent_file=agent_file)


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=64, metavar="N", help="Processes behind this address (else 1)."),
    ] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Run the server in production: needs DATABASE_URL, CONTROLPLANE_SECRET_KEY and a migrated database."""
    from controlplane.cli.serve import serve as run

    run(host=host, port=port, workers=workers, database_url=database_url)


@app.command()
def migrate(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Bring the database to the newest schema; safe to run again and by several at once."""
    from controlplane.cli.migrate import migrate as run

    run(database_url=database_url, as_json=as_json)


@app.command()
def prune(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing; count what would be removed, and what is held by what.")
    ] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Remove now what is older than the CONTROLPLANE_KEEP_…_DAYS say; a server does it bit by bit by itself."""
    from controlplane.cli.prune import prune as run

    run(dry_run=dry_run, database_url=database_url, as_json=as_json)


@app.command()
def verify(
    watch_seconds: Annotated[
        float | None, typer.Option("--watch", metavar="SECONDS", min=0.1, help="Ask again this long after each answer.")
    ] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Ask the database whether every promise is kept; exit 1 and the ids of what breaks one. Changes nothing."""
    from controlplane.cli.verify import verify as run

    run(watch_seconds=watch_seconds, database_url=database_url, as_json=as_json)


@app.command("generate-secret-key")
def generate_secret_key(as_json: AsJson = False) -> None:
    """Print a new CONTROLPLANE_SECRET_KEY, which seals the webhook secrets in the database."""
    from controlplane.cli.secret_key import generate as run

    run(as_json=as_json)


@app.command()
def call(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="node_id.reasoner_name")],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Arguments; a value that is JSON is sent as it is, else as text."),
    ] = None,
    input_given: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON|@FILE|-", help="The arguments as a JSON object, from a file or stdin."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the result, or print the id.")] = True,
    timeout: Timeout = None,
    run_id: RunId = None,
    delay: Delay = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", "--run-at", metavar="MOMENT", help="Begin then: 2030-01-31T09:00:00+01:00. What has passed is now."
        ),
    ] = None,
    retries: Annotated[
        int | None, typer.Option("--retries", min=0, help="How often a failure is tried again (else as registered).")
    ] = None,
    retry: Annotated[
        str | None,
        typer.Option(
            "--retry",
            metavar="JSON|@FILE",
            help='More than --retries: {"max": 3, "delay_seconds": 1, "factor": 2}.',
        ),
    ] = None,
    timeout_seconds: Annotated[
        float | None, typer.Option("--timeout-seconds", metavar="SECONDS", help="How long one attempt may take.")
    ] = None,
    heartbeat_seconds: Annotated[
        float | None, typer.Option("--heartbeat-seconds", metavar="SECONDS", help="How long an attempt may be silent.")
    ] = None,
    schedule_to_start_seconds: Annotated[
        float | None,
        typer.Option("--schedule-to-start-seconds", metavar="SECONDS", help="How long it may wait to be begun."),
    ] = None,
    total_seconds: Annotated[
        float | None, typer.Option("--total-seconds", metavar="SECONDS", help="How long it may take altogether.")
    ] = None,
    context_given: Annotated[
        str | None,
        typer.Option("--context", metavar="JSON|@FILE", help="What travels beside the input."),
    ] = None,
    session_id: SessionId = None,
    actor_id: ActorId = None,
    priority: Annotated[int | None, typer.Option("--priority", help="What is higher is leased first; 0.")] = None,
    concurrency_key: Annotated[
        str | None,
        typer.Option("--concurrency-key", metavar="KEY", help="Of one key run no more at once than its limit allows."),
    ] = None,
    fairness_key: Annotated[
        str | None,
        typer.Option("--fairness-key", metavar="KEY", help="Of one key few are ready at once, so that others pass."),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="URL", help="Where the result is POSTed when it has ended.")
    ] = None,
    webhook_secret: Annotated[
        str | None, typer.Option("--webhook-secret", metavar="SECRET", help="What signs that POST.")
    ] = None,
    webhook_header: Annotated[
        list[str] | None,
        typer.Option("--webhook-header", metavar="NAME=VALUE", help="A header of that POST; may be repeated."),
    ] = None,
    webhook_event: Annotated[
        list[str] | None,
        typer.Option("--webhook-event", metavar="TYPE", help="Told beside the end, as execution.started; repeatable."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="KEY", help="Submitted twice with one key, it is accepted once."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Submit an execution and print its result."""
    from controlplane.cli.call import call as run

    with client_of(server, api_key) as client:
        run(
            client,
            target,
            input_given=input_given,
            pairs=pairs or [],
            wait=wait,
            timeout_seconds=timeout,
            run_id=run_id,
            names={"X-Session-ID": session_id, "X-Actor-ID": actor_id},
            options={
                "delay_seconds": delay,
                "run_at": at,
                "retries": retries,
                "timeout_seconds": timeout_seconds,
                "heartbeat_seconds": heartbeat_seconds,
                "schedule_to_start_seconds": schedule_to_start_seconds,
                "total_seconds": total_seconds,
                "priority": priority,
                "concurrency_key": concurrency_key,
                "fairness_key": fairness_key,
            },
            objects={"retry": retry, "context": context_given},
            webhook_url=webhook,
            webhook_secret=webhook_secret,
            webhook_headers=webhook_header or [],
            webhook_events=webhook_event or [],
            idempotency_key=idempotency_key,
            again=again(server),
            as_json=as_json,
        )


@app.command()
def batch(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE.jsonl|-", help='A line for each: {"target": …, "input": …}, and what a submit takes.'
        ),
    ],
    same_run: Annotated[bool, typer.Option("--same-run", help="Let them share a new run.")] = False,
    run_id: RunId = None,
    session_id: SessionId = None,
    actor_id: ActorId = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="KEY", help="Sent twice with one key, no line is submitted twice."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Submit what the lines of a file say and print the ids, in order."""
    from controlplane.cli.batch import batch as run

    with client_of(server, api_key) as client:
        run(
            client,
            file,
            same_run=same_run,
            run_id=run_id,
            names={"X-Session-ID": session_id, "X-Actor-ID": actor_id},
            idempotency_key=idempotency_key,
            again=again(server, "runs show"),
            as_json=as_json,
        )


@app.command()
def pause(
    reasoner: PausedReasoner = None,
    node: PausedNode = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    reason: Reason = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Hand out no more work of a reasoner, of a node, or at all: what runs goes on, what is submitted waits."""
    from controlplane.cli.pauses import turn

    with client_of(server, api_key) as client:
        turn(client, "pause", reasoner=reasoner, node=node, everything=everything, reason=reason, as_json=as_json)


@app.command()
def resume(
    reasoner: PausedReasoner = None,
    node: PausedNode = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything; what was paused by itself stays so.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Hand out again what was paused."""
    from controlplane.cli.pauses import turn

    with client_of(server, api_key) as client:
        turn(client, "resume", reasoner=reasoner, node=node, everything=everything, reason=None, as_json=as_json)


@app.command()
def system(server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show how it goes with all of it: versions, lag, who pins a snapshot, dead rows, standbys."""
    from controlplane.cli.system import show

    with client_of(server, api_key) as client:
        show(client, as_json=as_json)


@app.command()
def doctor(
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check what dev, serve and call need, and name the next step. Exit 1 when something is wrong."""
    from controlplane.cli.doctor import doctor as run

    run(
        server=server,
        server_given=server != DEFAULT_SERVER,
        api_key=api_key,
        database_url=database_url,
        as_json=as_json,
    )


@app.command()
def receive(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free one.")] = 9000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            envvar="CONTROLPLANE_WEBHOOK_SECRET",
            metavar="SECRET",
            help="What the webhook is signed with; several while one is changed.",
        ),
    ] = None,
    status: Annotated[
        int | None, typer.Option("--status", min=200, max=599, help="Answer so, whatever comes: 503 to see it retried.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after so many requests.")] = None,
    as_json: AsJson = False,
) -> None:
    """Listen for webhooks on this machine, verify them and print each; what is not verified is answered with 401."""
    from controlplane.cli.receive import receive as run

    run(host=host, port=port, secrets=secret or [], status=status, count=count, as_json=as_json)
