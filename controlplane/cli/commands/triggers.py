"""What outside senders may begin."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import DEFAULT_SERVER, ApiKey, AsJson, Reason, Server, Target, again, client_of

Arguments = Annotated[
    list[str] | None,
    typer.Option("--argument", metavar="NAME=SOURCE", help="A JSON pointer (empty: all of it) or header:NAME."),
]
Tolerance = Annotated[
    float | None, typer.Option("--tolerance", min=1, metavar="SECONDS", help="How old a signed moment may be.")
]
TypeFrom = Annotated[str | None, typer.Option("--type-from", help="Of hmac, bearer: header:NAME or a JSON pointer.")]
IdFrom = Annotated[str | None, typer.Option("--id-from", help="Of hmac, bearer: header:NAME or a JSON pointer.")]
TimestampHeader = Annotated[str | None, typer.Option("--timestamp-header", help="Of hmac: where its moment is.")]
Signed = Annotated[str | None, typer.Option("--signed", help="Of hmac: as in '{timestamp}.{body}'.")]
SignatureEncoding = Annotated[str | None, typer.Option("--encoding", help="Of hmac: hex or base64.")]
SignatureAlgorithm = Annotated[str | None, typer.Option("--algorithm", help="Of hmac: sha256, sha512 or sha1.")]
SignaturePrefix = Annotated[str | None, typer.Option("--prefix", help="Of hmac, bearer: what stands before it.")]
SignatureHeader = Annotated[str | None, typer.Option("--header", help="Of hmac, bearer: where the signature is.")]
EventTypes = Annotated[list[str] | None, typer.Option("--event-type", metavar="TYPE", help="Only these; else all.")]
SecretEnv = Annotated[
    str | None, typer.Option("--secret-env", metavar="VARIABLE", help="Where the secret is; else it comes from stdin.")
]
TriggerName = Annotated[str, typer.Argument(metavar="NAME", help="The name of the trigger, which is its slug.")]
app = typer.Typer(help="Let outside senders submit; see and replay what they have sent.")


@app.command("list")
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

    with client_of(server, api_key) as client:
        listing(client, target=target, managed_by=managed_by, limit=limit, cursor=cursor, as_json=as_json)


@app.command("show")
def triggers_show(
    name: TriggerName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show one trigger, without its secret."""
    from controlplane.cli.triggers import show

    with client_of(server, api_key) as client:
        show(client, name, as_json=as_json)


@app.command("create")
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
    with client_of(server, api_key) as client:
        create(client, name, asked, arguments=arguments or (), secret_env=secret_env, as_json=as_json)


@app.command("change")
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
    with client_of(server, api_key) as client:
        change(client, name, asked, arguments=arguments or (), secret=secret, secret_env=secret_env, as_json=as_json)


@app.command("pause")
def triggers_pause(
    name: TriggerName,
    reason: Reason = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Pause a trigger: what comes in is kept and submits nothing."""
    from controlplane.cli.triggers import turn

    with client_of(server, api_key) as client:
        turn(client, name, "pause", reason=reason, as_json=as_json)


@app.command("resume")
def triggers_resume(
    name: TriggerName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Resume a trigger; what was held meanwhile can be replayed."""
    from controlplane.cli.triggers import turn

    with client_of(server, api_key) as client:
        turn(client, name, "resume", as_json=as_json)


@app.command("delete")
def triggers_delete(
    name: TriggerName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete a trigger; what has come in goes on."""
    from controlplane.cli.triggers import delete

    with client_of(server, api_key) as client:
        delete(client, name, as_json=as_json)


@app.command("test")
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

    with client_of(server, api_key) as client:
        sample(client, name, body_given=body, event_type=event_type, as_json=as_json)


@app.command("events")
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

    with client_of(server, api_key) as client:
        if event_id is not None:
            event(client, name, event_id)
        else:
            events(client, name, outcome=outcome, limit=limit, cursor=cursor, as_json=as_json)


@app.command("replay")
def triggers_replay(
    name: TriggerName,
    event_id: Annotated[str, typer.Argument(metavar="EVENT", help="Its id, tev_….")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Submit an event that came in once more, and print the execution's id."""
    from controlplane.cli.triggers import replay

    with client_of(server, api_key) as client:
        replay(client, name, event_id, again=again(server), as_json=as_json)
