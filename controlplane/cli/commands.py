"""Every command with its options, and nothing else: this page is the reference that `--help` prints.

What does the work is imported by the command that needs it: the server takes a second to import, and help must not.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from controlplane import __version__
from controlplane.cli.failure import MEANING

if TYPE_CHECKING:
    from controlplane.cli.client import Client

DEFAULT_SERVER = "http://localhost:8080"

Server = Annotated[
    str,
    typer.Option(
        "--server",
        envvar=["CONTROLPLANE_SERVER", "AGENTFIELD_SERVER"],
        metavar="URL",
        help="The control plane to ask.",
        rich_help_panel="Server",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=["CONTROLPLANE_API_KEY", "AGENTFIELD_API_KEY"],
        metavar="KEY",
        help="The key that the server was started with.",
        rich_help_panel="Server",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on (CONTROLPLANE_HOST, else 127.0.0.1).")]
Port = Annotated[
    int | None,
    typer.Option("--port", min=0, max=65535, help="Port to listen on (CONTROLPLANE_PORT, else 8080); 0: any free one."),
]
DatabaseUrl = Annotated[
    str | None, typer.Option("--database-url", metavar="DSN", help="PostgreSQL to use (else DATABASE_URL).")
]
ExecutionId = Annotated[str, typer.Argument(metavar="EXECUTION", help="Its id, exec_….")]
Delay = Annotated[
    float | None, typer.Option("--delay", min=0, metavar="SECONDS", help="Begin so much later; 366 days at most.")
]
RunId = Annotated[str | None, typer.Option("--run-id", metavar="RUN", help="Join this run.")]
NodeId = Annotated[str, typer.Argument(metavar="NODE", help="The id of the node.")]
PausedReasoner = Annotated[str | None, typer.Option("--reasoner", metavar="TARGET", help="node_id.reasoner_name")]
PausedNode = Annotated[
    str | None, typer.Option("--node", metavar="NODE", help="A node, whatever processes it has or gets.")
]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for those who look at it later.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Its id, run_… or as its caller has named it.")]
LimitKey = Annotated[
    str, typer.Argument(metavar="KEY", help="reasoner:node_id.reasoner_name, node:node_id or key:concurrency_key")
]
ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="The name of the schedule.")]
TriggerName = Annotated[str, typer.Argument(metavar="NAME", help="The name of the trigger, which is its slug.")]
SecretEnv = Annotated[
    str | None, typer.Option("--secret-env", metavar="VARIABLE", help="Where the secret is; else it comes from stdin.")
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--argument", metavar="NAME=SOURCE", help="A JSON pointer (empty: all of it) or header:NAME."),
]
EventTypes = Annotated[list[str] | None, typer.Option("--event-type", metavar="TYPE", help="Only these; else all.")]
SignatureHeader = Annotated[str | None, typer.Option("--header", help="Of hmac, bearer: where the signature is.")]
SignaturePrefix = Annotated[str | None, typer.Option("--prefix", help="Of hmac, bearer: what stands before it.")]
SignatureAlgorithm = Annotated[str | None, typer.Option("--algorithm", help="Of hmac: sha256, sha512 or sha1.")]
SignatureEncoding = Annotated[str | None, typer.Option("--encoding", help="Of hmac: hex or base64.")]
Signed = Annotated[str | None, typer.Option("--signed", help="Of hmac: as in '{timestamp}.{body}'.")]
TimestampHeader = Annotated[str | None, typer.Option("--timestamp-header", help="Of hmac: where its moment is.")]
IdFrom = Annotated[str | None, typer.Option("--id-from", help="Of hmac, bearer: header:NAME or a JSON pointer.")]
TypeFrom = Annotated[str | None, typer.Option("--type-from", help="Of hmac, bearer: header:NAME or a JSON pointer.")]
Tolerance = Annotated[
    float | None, typer.Option("--tolerance", min=1, metavar="SECONDS", help="How old a signed moment may be.")
]
BulkId = Annotated[str, typer.Argument(metavar="BULK", help="Its id, bulk_….")]
Target = Annotated[str | None, typer.Option("--target", help="node_id.reasoner_name")]
OfNode = Annotated[str | None, typer.Option("--node", metavar="NODE", help="Those of one node.")]
OfRun = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Those of one run.")]
SessionKey = Annotated[str | None, typer.Option("--session", metavar="KEY", help="Of this X-Session-ID.")]
ActorKey = Annotated[str | None, typer.Option("--actor", metavar="KEY", help="Of this X-Actor-ID.")]
ErrorClass = Annotated[str | None, typer.Option("--error-class", metavar="CLASS", help="Ended with this error.")]
CreatedAfter = Annotated[str | None, typer.Option("--created-after", metavar="MOMENT", help="2030-01-31T09:00:00Z.")]
CreatedBefore = Annotated[str | None, typer.Option("--created-before", metavar="MOMENT", help="Up to then.")]
EndedAfter = Annotated[str | None, typer.Option("--ended-after", metavar="MOMENT", help="Ended (or died) from then.")]
EndedBefore = Annotated[str | None, typer.Option("--ended-before", metavar="MOMENT", help="Up to then.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="Stop waiting after so long; the execution goes on."),
]

EPILOG = "\n\n".join(["Exit codes:", *(f"{code.value} {meaning}" for code, meaning in MEANING.items())])

app = typer.Typer(
    name="controlplane",
    help="A durable execution control plane for AI agents, on PostgreSQL.",
    epilog=EPILOG,
    pretty_exceptions_enable=False,
)
executions_app = typer.Typer(help="List, show, explain, signal, pause, cancel, wait for, restart and retry executions.")
app.add_typer(executions_app, name="executions")
nodes_app = typer.Typer(help="List nodes; let one drain.", invoke_without_command=True)
app.add_typer(nodes_app, name="nodes")
pauses_app = typer.Typer(help="See what is paused.")
app.add_typer(pauses_app, name="pauses")
runs_app = typer.Typer(help="List, show and cancel runs.")
app.add_typer(runs_app, name="runs")
schedules_app = typer.Typer(help="List, show, create, pause, resume, run and delete schedules.")
app.add_typer(schedules_app, name="schedules")
triggers_app = typer.Typer(help="Let outside senders submit; see and replay what they have sent.")
app.add_typer(triggers_app, name="triggers")
bulk_app = typer.Typer(help="Do one thing to everything that a filter matches: the server goes on by itself.")
app.add_typer(bulk_app, name="bulk")
deliveries_app = typer.Typer(help="List webhook deliveries that are dead, and send them again.")
app.add_typer(deliveries_app, name="deliveries")
BULK_ACTIONS = {
    "cancel": "Cancel executions that have not ended.",
    "retry": "Ask once more what has failed or timed out; what has a retry already is skipped.",
    "redrive_deliveries": "Send webhooks again that are dead.",
    "pause": "Hold executions back; an attempt that runs goes on to its end.",
    "resume": "Let paused executions go on.",
}
approvals_app = typer.Typer(help="List and show what executions ask people, approve and reject it.")
app.add_typer(approvals_app, name="approvals")
limits_app = typer.Typer(help="List, set and delete limits.")
app.add_typer(limits_app, name="limits")


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
def serve(host: Host = None, port: Port = None, database_url: DatabaseUrl = None) -> None:
    """Run the server in production: needs DATABASE_URL, CONTROLPLANE_SECRET_KEY and a migrated database."""
    from controlplane.cli.serve import serve as run

    run(host=host, port=port, database_url=database_url)


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
        typer.Option("--at", metavar="MOMENT", help="Begin then: 2030-01-31T09:00:00+01:00. What has passed is now."),
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
    session_id: Annotated[
        str | None, typer.Option("--session-id", metavar="ID", help="The scope of session memory.")
    ] = None,
    actor_id: Annotated[str | None, typer.Option("--actor-id", metavar="ID", help="The scope of actor memory.")] = None,
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

    with _client(server, api_key) as client:
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
            idempotency_key=idempotency_key,
            again=_again(server),
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

    with _client(server, api_key) as client:
        run(
            client,
            file,
            same_run=same_run,
            run_id=run_id,
            idempotency_key=idempotency_key,
            again=_again(server, "runs show"),
            as_json=as_json,
        )


@executions_app.command("list")
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
    with _client(server, api_key) as client:
        listing(client, query, as_json=as_json)


@executions_app.command("show")
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

    with _client(server, api_key) as client:
        show(client, execution_id, events=events, logs=logs, deliveries=deliveries, as_json=as_json)


@executions_app.command("explain")
def executions_explain(
    execution_id: ExecutionId,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say in one sentence why an execution waits, or what it does, and what to do next."""
    from controlplane.cli.executions import explain

    with _client(server, api_key) as client:
        explain(client, execution_id, as_json=as_json)


@executions_app.command("attempts")
def executions_attempts(
    execution_id: ExecutionId,
    tracebacks: Annotated[bool, typer.Option("--tracebacks", help="With the traceback of each failure.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the attempts of an execution: where each ran, how long, and how it ended; the newest last."""
    from controlplane.cli.executions import attempts

    with _client(server, api_key) as client:
        attempts(client, execution_id, tracebacks=tracebacks, as_json=as_json)


@executions_app.command("pause")
def executions_pause(
    execution_id: ExecutionId,
    reason: Reason = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Hold an execution back; an attempt that runs goes on to its end."""
    from controlplane.cli.executions import pause

    with _client(server, api_key) as client:
        pause(client, execution_id, reason=reason, as_json=as_json)


@executions_app.command("resume")
def executions_resume(
    execution_id: ExecutionId,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let a paused execution go on."""
    from controlplane.cli.executions import resume

    with _client(server, api_key) as client:
        resume(client, execution_id, as_json=as_json)


@executions_app.command("cancel")
def executions_cancel(
    execution_id: ExecutionId,
    reason: Reason = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Cancel an execution."""
    from controlplane.cli.executions import cancel

    with _client(server, api_key) as client:
        cancel(client, execution_id, reason=reason, as_json=as_json)


@executions_app.command("wait")
def executions_wait(
    execution_id: ExecutionId,
    timeout: Timeout = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Wait for the end of an execution and print its result, as `call` does."""
    from controlplane.cli.executions import wait

    with _client(server, api_key) as client:
        wait(client, execution_id, timeout_seconds=timeout, again=_again(server), as_json=as_json)


@executions_app.command("restart")
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

    with _client(server, api_key) as client:
        restart(
            client,
            execution_id,
            scope=scope,
            reuse=reuse,
            fork=fork,
            reason=reason,
            input_given=input_given,
            again=_again(server),
            as_json=as_json,
        )


@executions_app.command("retry")
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

    with _client(server, api_key) as client:
        retry(
            client,
            execution_id,
            reuse=reuse,
            reason=reason,
            delay_seconds=delay,
            again=_again(server),
            as_json=as_json,
        )


@runs_app.command("list")
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

    with _client(server, api_key) as client:
        listing(client, target=target, limit=limit, cursor=cursor, as_json=as_json)


@runs_app.command("show")
def runs_show(
    run_id: Run,
    limit: Annotated[int, typer.Option("--limit", min=0, help="How many executions at most, the oldest.")] = 200,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show how far a run is, and the tree of its executions."""
    from controlplane.cli.runs import show

    with _client(server, api_key) as client:
        show(client, run_id, limit=limit, as_json=as_json)


@runs_app.command("cancel")
def runs_cancel(
    run_id: Run,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for those who look at it later.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Cancel everything unfinished of a run."""
    from controlplane.cli.runs import cancel

    with _client(server, api_key) as client:
        cancel(client, run_id, reason=reason, as_json=as_json)


@executions_app.command("steps")
def executions_steps(
    execution_id: ExecutionId,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List what an execution has done once and for all, and what it waits for; the first one first."""
    from controlplane.cli.steps import steps

    with _client(server, api_key) as client:
        steps(client, execution_id, as_json=as_json)


@executions_app.command("signal")
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

    with _client(server, api_key) as client:
        signal(client, execution_id, event, payload=payload, idempotency_key=idempotency_key, as_json=as_json)


Feedback = Annotated[str | None, typer.Option("--feedback", metavar="TEXT", help="What to tell who asked.")]
AnswerJson = Annotated[
    str | None, typer.Option("--response", metavar="JSON", help="An answer beyond yes or no; @file, or - for stdin.")
]
RequestId = Annotated[
    str | None,
    typer.Option("--approval-request-id", metavar="ID", help="Which of several questions; else the one that is open."),
]


@approvals_app.command("list")
def approvals_list(
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many that wait are looked at.")] = 50,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List what executions ask people just now, the newest execution first."""
    from controlplane.cli.approvals import listing

    with _client(server, api_key) as client:
        listing(client, limit=limit, as_json=as_json)


@approvals_app.command("show")
def approvals_show(
    execution_id: ExecutionId,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what an execution asks, or asked last."""
    from controlplane.cli.approvals import show

    with _client(server, api_key) as client:
        show(client, execution_id, as_json=as_json)


@approvals_app.command("approve")
def approvals_approve(
    execution_id: ExecutionId,
    feedback: Feedback = None,
    response: AnswerJson = None,
    request_id: RequestId = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say yes to what an execution asks; the first decision stands."""
    _decide(execution_id, "approved", feedback, response, request_id, server, api_key, as_json=as_json)


@approvals_app.command("reject")
def approvals_reject(
    execution_id: ExecutionId,
    feedback: Feedback = None,
    response: AnswerJson = None,
    request_id: RequestId = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Say no to what an execution asks; the first decision stands."""
    _decide(execution_id, "rejected", feedback, response, request_id, server, api_key, as_json=as_json)


def _decide(
    execution_id: str,
    decision: str,
    feedback: str | None,
    response: str | None,
    request_id: str | None,
    server: str,
    api_key: str | None,
    *,
    as_json: bool,
) -> None:
    from controlplane.cli.approvals import decide

    with _client(server, api_key) as client:
        decide(
            client,
            execution_id,
            decision,
            feedback=feedback,
            response=response,
            request_id=request_id,
            as_json=as_json,
        )


@schedules_app.command("list")
def schedules_list(
    target: Annotated[str | None, typer.Option("--target", help="node_id.reasoner_name")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List schedules by name."""
    from controlplane.cli.schedules import listing

    with _client(server, api_key) as client:
        listing(client, target=target, limit=limit, cursor=cursor, as_json=as_json)


@schedules_app.command("show")
def schedules_show(
    name: ScheduleName,
    ticks: Annotated[bool, typer.Option("--ticks", help="With what became of its latest ticks.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show one schedule and when it comes next."""
    from controlplane.cli.schedules import show

    with _client(server, api_key) as client:
        show(client, name, ticks=ticks, as_json=as_json)


@schedules_app.command("create")
def schedules_create(
    name: ScheduleName,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="node_id.reasoner_name")],
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="EXPRESSION", help="Five fields, as in '30 9 * * MON-FRI'.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option("--time-zone", metavar="ZONE", help="Of the cron expression: Europe/Berlin; else UTC.")
    ] = None,
    interval: Annotated[
        float | None, typer.Option("--interval", min=1, metavar="SECONDS", help="Again and again after so long.")
    ] = None,
    run_at: Annotated[
        str | None, typer.Option("--run-at", metavar="MOMENT", help="Once: 2030-01-31T09:00:00+01:00.")
    ] = None,
    overlap: Annotated[
        str | None, typer.Option("--overlap", help="While one runs: skip (default), queue or cancel_other.")
    ] = None,
    catch_up: Annotated[
        str | None, typer.Option("--catch-up", help="Of what was missed: none, one (default) or all.")
    ] = None,
    jitter: Annotated[
        float | None, typer.Option("--jitter", min=0, metavar="SECONDS", help="Come up to so much later, never early.")
    ] = None,
    input_given: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON|@FILE|-", help="The arguments as a JSON object, from a file or stdin."),
    ] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="As of a submit.")] = None,
    retries: Annotated[int | None, typer.Option("--retries", min=0, help="Else what the reasoner says.")] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Else what the reasoner says.")
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Begin with nothing until it is resumed.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the schedule of this name.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a schedule: one of --cron, --interval and --run-at says when."""
    from controlplane.cli.schedules import create

    asked = {
        "target": target,
        "cron": cron,
        "time_zone": time_zone,
        "interval_seconds": interval,
        "run_at": run_at,
        "overlap": overlap,
        "catch_up": catch_up,
        "jitter_seconds": jitter,
        "priority": priority,
        "retries": retries,
        "timeout_seconds": timeout,
        "paused": paused or None,
    }
    with _client(server, api_key) as client:
        create(client, name, asked, input_given=input_given, replace=replace, as_json=as_json)


@schedules_app.command("pause")
def schedules_pause(
    name: ScheduleName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Pause a schedule; what falls into the pause is not made up for."""
    from controlplane.cli.schedules import turn

    with _client(server, api_key) as client:
        turn(client, name, "pause", as_json=as_json)


@schedules_app.command("resume")
def schedules_resume(
    name: ScheduleName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Resume a schedule with its next tick after now."""
    from controlplane.cli.schedules import turn

    with _client(server, api_key) as client:
        turn(client, name, "resume", as_json=as_json)


@schedules_app.command("run")
def schedules_run(
    name: ScheduleName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Submit now what a schedule submits, and print the execution's id."""
    from controlplane.cli.schedules import run

    with _client(server, api_key) as client:
        run(client, name, again=_again(server), as_json=as_json)


@schedules_app.command("delete")
def schedules_delete(
    name: ScheduleName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete a schedule; what it has submitted goes on."""
    from controlplane.cli.schedules import delete

    with _client(server, api_key) as client:
        delete(client, name, as_json=as_json)


@schedules_app.command("next")
def schedules_next(
    name: ScheduleName,
    count: Annotated[int, typer.Option("--count", min=1, max=100, help="How many.")] = 5,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print when a schedule comes next, in UTC, one moment a line."""
    from controlplane.cli.schedules import coming

    with _client(server, api_key) as client:
        coming(client, name, count=count, as_json=as_json)


@triggers_app.command("list")
def triggers_list(
    target: Target = None,
    managed_by: Annotated[
        str | None, typer.Option("--managed-by", metavar="NODE", help="Those that the code of this node declares.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List triggers by name."""
    from controlplane.cli.triggers import listing

    with _client(server, api_key) as client:
        listing(client, target=target, managed_by=managed_by, limit=limit, cursor=cursor, as_json=as_json)


@triggers_app.command("show")
def triggers_show(
    name: TriggerName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show one trigger, without its secret."""
    from controlplane.cli.triggers import show

    with _client(server, api_key) as client:
        show(client, name, as_json=as_json)


@triggers_app.command("create")
def triggers_create(
    name: TriggerName,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="node_id.reasoner_name")],
    preset: Annotated[str, typer.Option("--preset", help="github, stripe, slack, standard, hmac or bearer.")],
    secret_env: SecretEnv = None,
    arguments: Arguments = None,
    event_types: EventTypes = None,
    header: SignatureHeader = None,
    prefix: SignaturePrefix = None,
    algorithm: SignatureAlgorithm = None,
    encoding: SignatureEncoding = None,
    signed: Signed = None,
    timestamp_header: TimestampHeader = None,
    id_from: IdFrom = None,
    type_from: TypeFrom = None,
    tolerance: Tolerance = None,
    paused: Annotated[bool, typer.Option("--paused", help="Keep what comes in and submit nothing.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a trigger and print where its sender has to send; the secret comes from stdin or --secret-env."""
    from controlplane.cli.triggers import create

    asked = {
        "target": target,
        "preset": preset,
        "event_types": event_types or None,
        "header": header,
        "prefix": prefix,
        "algorithm": algorithm,
        "encoding": encoding,
        "signed": signed,
        "timestamp_header": timestamp_header,
        "id_from": id_from,
        "type_from": type_from,
        "tolerance_seconds": tolerance,
        "paused": paused or None,
    }
    with _client(server, api_key) as client:
        create(client, name, asked, arguments=arguments or (), secret_env=secret_env, as_json=as_json)


@triggers_app.command("change")
def triggers_change(
    name: TriggerName,
    target: Target = None,
    secret: Annotated[bool, typer.Option("--secret", help="A new secret, from stdin.")] = False,
    secret_env: SecretEnv = None,
    overlap: Annotated[
        float | None,
        typer.Option("--overlap", min=0, metavar="SECONDS", help="How long the secret before is taken; else a day."),
    ] = None,
    arguments: Arguments = None,
    event_types: EventTypes = None,
    tolerance: Tolerance = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change what a trigger submits, for what, or its secret."""
    from controlplane.cli.triggers import change

    asked = {
        "target": target,
        "overlap_seconds": overlap,
        "event_types": event_types or None,
        "tolerance_seconds": tolerance,
    }
    with _client(server, api_key) as client:
        change(client, name, asked, arguments=arguments or (), secret=secret, secret_env=secret_env, as_json=as_json)


@triggers_app.command("pause")
def triggers_pause(
    name: TriggerName,
    reason: Reason = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Pause a trigger: what comes in is kept and submits nothing."""
    from controlplane.cli.triggers import turn

    with _client(server, api_key) as client:
        turn(client, name, "pause", reason=reason, as_json=as_json)


@triggers_app.command("resume")
def triggers_resume(
    name: TriggerName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Resume a trigger; what was held meanwhile can be replayed."""
    from controlplane.cli.triggers import turn

    with _client(server, api_key) as client:
        turn(client, name, "resume", as_json=as_json)


@triggers_app.command("delete")
def triggers_delete(
    name: TriggerName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete a trigger; what has come in goes on."""
    from controlplane.cli.triggers import delete

    with _client(server, api_key) as client:
        delete(client, name, as_json=as_json)


@triggers_app.command("test")
def triggers_test(
    name: TriggerName,
    body: Annotated[
        str | None, typer.Option("--body", metavar="JSON|@FILE|-", help="What it sends, from a file or stdin.")
    ] = None,
    event_type: Annotated[
        str | None, typer.Option("--event-type", help="Where the sender says it in a header.")
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print a signed sample request, as a line for curl."""
    from controlplane.cli.triggers import sample

    with _client(server, api_key) as client:
        sample(client, name, body_given=body, event_type=event_type, as_json=as_json)


@triggers_app.command("events")
def triggers_events(
    name: TriggerName,
    event_id: Annotated[str | None, typer.Argument(metavar="EVENT", help="tev_…: this one, with its body.")] = None,
    outcome: Annotated[str | None, typer.Option("--outcome", help="submitted, filtered, held or rejected.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List what came in, the newest first; or print one event with its body."""
    from controlplane.cli.triggers import event, events

    with _client(server, api_key) as client:
        if event_id is not None:
            event(client, name, event_id)
        else:
            events(client, name, outcome=outcome, limit=limit, cursor=cursor, as_json=as_json)


@triggers_app.command("replay")
def triggers_replay(
    name: TriggerName,
    event_id: Annotated[str, typer.Argument(metavar="EVENT", help="Its id, tev_….")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Submit an event that came in once more, and print the execution's id."""
    from controlplane.cli.triggers import replay

    with _client(server, api_key) as client:
        replay(client, name, event_id, again=_again(server), as_json=as_json)


@limits_app.command("list")
def limits_list(
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List limits by key, with what each holds and how many it blocks."""
    from controlplane.cli.limits import listing

    with _client(server, api_key) as client:
        listing(client, limit=limit, cursor=cursor, as_json=as_json)


@limits_app.command("set")
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

    with _client(server, api_key) as client:
        put(
            client,
            key,
            concurrency_max=concurrency_max,
            rate_max=rate_max,
            rate_seconds=rate_seconds,
            as_json=as_json,
        )


@limits_app.command("delete")
def limits_delete(
    key: LimitKey, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete a limit; what waited for it is let in."""
    from controlplane.cli.limits import delete

    with _client(server, api_key) as client:
        delete(client, key, as_json=as_json)


@deliveries_app.command("list")
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
    with _client(server, api_key) as client:
        listing(client, query, as_json=as_json)


@deliveries_app.command("retry")
def deliveries_retry(
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id, dlv_….")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Send one delivery again, now; many at once: bulk redrive-deliveries."""
    from controlplane.cli.deliveries import retry

    with _client(server, api_key) as client:
        retry(client, delivery_id, as_json=as_json)


def _bulk_command(action: str, said: str) -> None:
    """The command of one action: they differ in nothing but the word."""

    @bulk_app.command(action.replace("_", "-"), help=said)
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
        with _client(server, api_key) as client:
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
                as_json=as_json,
            )


for _action, _said in BULK_ACTIONS.items():
    _bulk_command(_action, _said)


@bulk_app.command("list")
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

    with _client(server, api_key) as client:
        listing(client, state=state, limit=limit, cursor=cursor, as_json=as_json)


@bulk_app.command("show")
def bulk_show(
    bulk_id: BulkId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show how far a bulk is, and what became of what."""
    from controlplane.cli.bulk import show

    with _client(server, api_key) as client:
        show(client, bulk_id, as_json=as_json)


@bulk_app.command("stop")
def bulk_stop(
    bulk_id: BulkId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Stop a bulk before its next batch; what was done stays done."""
    from controlplane.cli.bulk import stop

    with _client(server, api_key) as client:
        stop(client, bulk_id, as_json=as_json)


@nodes_app.callback()
def nodes(
    context: typer.Context,
    show_all: Annotated[bool, typer.Option("--all", help="Also those that are not connected now.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the nodes that are connected; let one drain."""
    from controlplane.cli.nodes import before, listing

    if context.invoked_subcommand is not None:
        before(name for name in context.params if _given(context, name))
        return

    with _client(server, api_key) as client:
        listing(client, show_all=show_all, as_json=as_json)


@nodes_app.command("drain")
def nodes_drain(
    node_id: NodeId,
    reason: Reason = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let the processes that a node has now finish what they run, and give them nothing new. Those started later serve.

    Say it again to see how much still runs.
    """
    from controlplane.cli.nodes import drain

    with _client(server, api_key) as client:
        drain(client, node_id, "drain", reason=reason, as_json=as_json)


@nodes_app.command("undrain")
def nodes_undrain(
    node_id: NodeId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Give the processes of a node work again."""
    from controlplane.cli.nodes import drain

    with _client(server, api_key) as client:
        drain(client, node_id, "undrain", reason=None, as_json=as_json)


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

    with _client(server, api_key) as client:
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

    with _client(server, api_key) as client:
        turn(client, "resume", reasoner=reasoner, node=node, everything=everything, reason=None, as_json=as_json)


@pauses_app.command("list")
def pauses_list(
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List what is paused: since when, by whom and why."""
    from controlplane.cli.pauses import listing

    with _client(server, api_key) as client:
        listing(client, limit=limit, cursor=cursor, as_json=as_json)


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


def _given(context: typer.Context, name: str) -> bool:
    """Whether it stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _client(server: str, api_key: str | None) -> Client:
    from controlplane.cli.client import Client

    return Client(server, api_key)


def _again(server: str, command: str = "executions wait") -> str:
    """The command that waits for an execution on this server, or another one that takes an id."""
    there = "" if server == DEFAULT_SERVER else f" --server {shlex.quote(server)}"
    return f"controlplane {command}{there}"
