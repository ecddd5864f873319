"""What begins by itself."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import DEFAULT_SERVER, ApiKey, AsJson, Server, again, client_of

ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="The name of the schedule.")]
app = typer.Typer(help="List, show, create, pause, resume, run and delete schedules.")


@app.command("list")
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

    with client_of(server, api_key) as client:
        listing(client, target=target, limit=limit, cursor=cursor, as_json=as_json)


@app.command("show")
def schedules_show(
    name: ScheduleName,
    ticks: Annotated[bool, typer.Option("--ticks", help="With what became of its latest ticks.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show one schedule and when it comes next."""
    from controlplane.cli.schedules import show

    with client_of(server, api_key) as client:
        show(client, name, ticks=ticks, as_json=as_json)


@app.command("create")
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
        float | None,
        typer.Option(
            "--interval", "--interval-seconds", min=1, metavar="SECONDS", help="Again and again after so long."
        ),
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
        float | None,
        typer.Option(
            "--jitter", "--jitter-seconds", min=0, metavar="SECONDS", help="Come up to so much later, never early."
        ),
    ] = None,
    input_given: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON|@FILE|-", help="The arguments as a JSON object, from a file or stdin."),
    ] = None,
    context_given: Annotated[
        str | None, typer.Option("--context", metavar="JSON|@FILE", help="What travels beside the input.")
    ] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="As of a submit.")] = None,
    retries: Annotated[int | None, typer.Option("--retries", min=0, help="Else what the reasoner says.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout-seconds",
            "--timeout",
            min=0,
            metavar="SECONDS",
            help="How long one attempt may take; else what the reasoner says.",
        ),
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Begin with nothing until it is resumed.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="In the place of the one that has the name.")] = False,
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
    with client_of(server, api_key) as client:
        objects = {"input": input_given, "context": context_given}
        create(client, name, asked, objects, replace=replace, as_json=as_json)


@app.command("pause")
def schedules_pause(
    name: ScheduleName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Pause a schedule; what falls into the pause is not made up for."""
    from controlplane.cli.schedules import turn

    with client_of(server, api_key) as client:
        turn(client, name, "pause", as_json=as_json)


@app.command("resume")
def schedules_resume(
    name: ScheduleName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Resume a schedule with its next tick after now."""
    from controlplane.cli.schedules import turn

    with client_of(server, api_key) as client:
        turn(client, name, "resume", as_json=as_json)


@app.command("run")
def schedules_run(
    name: ScheduleName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Submit now what a schedule submits, and print the execution's id."""
    from controlplane.cli.schedules import run

    with client_of(server, api_key) as client:
        run(client, name, again=again(server), as_json=as_json)


@app.command("delete")
def schedules_delete(
    name: ScheduleName, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete a schedule; what it has submitted goes on."""
    from controlplane.cli.schedules import delete

    with client_of(server, api_key) as client:
        delete(client, name, as_json=as_json)


@app.command("next")
def schedules_next(
    name: ScheduleName,
    count: Annotated[int, typer.Option("--count", min=1, max=100, help="How many.")] = 5,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print when a schedule comes next, in UTC, one moment a line."""
    from controlplane.cli.schedules import coming

    with client_of(server, api_key) as client:
        coming(client, name, count=count, as_json=as_json)
