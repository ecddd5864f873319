"""Who is told of what happens."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import DEFAULT_SERVER, ApiKey, AsJson, Reason, Server, client_of

EndpointRef = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Its name, or its id, ep_….")]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", metavar="TYPE", help="As execution.started; * is all. Else the four ends."),
]
Targets = Annotated[
    list[str] | None, typer.Option("--target", metavar="TARGET", help="node_id.reasoner_name or a node_id; else all.")
]
Headers = Annotated[
    list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="Sent along, and never shown again.")
]
Schedule = Annotated[
    list[float] | None,
    typer.Option("--wait", metavar="SECONDS", help="Before each attempt, once for each; else ten over three days."),
]
SecretEnv = Annotated[
    str | None, typer.Option("--secret-env", metavar="VARIABLE", help="Where the secret is; else a new one is made.")
]
Description = Annotated[str | None, typer.Option("--description", help="What it is for.")]
app = typer.Typer(help="Register webhook receivers once, for everything that they want to hear of.")


@app.command("list")
def endpoints_list(
    state: Annotated[str | None, typer.Option("--state", help="enabled or disabled.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List endpoints by name; which are disabled, and why."""
    from controlplane.cli.endpoints import listing

    with client_of(server, api_key) as client:
        listing(client, state=state, limit=limit, cursor=cursor, as_json=as_json)


@app.command("show")
def endpoints_show(
    endpoint: EndpointRef, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Show one endpoint, without its secret."""
    from controlplane.cli.endpoints import show

    with client_of(server, api_key) as client:
        show(client, endpoint, as_json=as_json)


@app.command("create")
def endpoints_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where it is told.")],
    events: Events = None,
    targets: Targets = None,
    secret_env: SecretEnv = None,
    headers: Headers = None,
    schedule: Schedule = None,
    description: Description = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Register an endpoint and print the secret that its receiver verifies with."""
    from controlplane.cli.endpoints import create

    asked = {
        "url": url,
        "events": events or None,
        "targets": targets or None,
        "schedule": schedule or None,
        "description": description,
    }
    with client_of(server, api_key) as client:
        create(client, name, asked, headers=headers or (), secret_env=secret_env, as_json=as_json)


@app.command("update")
def endpoints_update(
    endpoint: EndpointRef,
    url: Annotated[str | None, typer.Option("--url", help="What is pending goes there, too.")] = None,
    events: Events = None,
    targets: Targets = None,
    headers: Headers = None,
    schedule: Schedule = None,
    description: Description = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change what is named of an endpoint."""
    from controlplane.cli.endpoints import update

    asked = {
        "url": url,
        "events": events or None,
        "targets": targets or None,
        "schedule": schedule or None,
        "description": description,
    }
    with client_of(server, api_key) as client:
        update(client, endpoint, asked, headers=headers or (), as_json=as_json)


@app.command("enable")
def endpoints_enable(
    endpoint: EndpointRef, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Enable an endpoint; what was pending is sent."""
    from controlplane.cli.endpoints import turn

    with client_of(server, api_key) as client:
        turn(client, endpoint, "enable", as_json=as_json)


@app.command("disable")
def endpoints_disable(
    endpoint: EndpointRef,
    reason: Reason = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Disable an endpoint: it is sent nothing, and what is pending waits."""
    from controlplane.cli.endpoints import turn

    with client_of(server, api_key) as client:
        turn(client, endpoint, "disable", reason=reason, as_json=as_json)


@app.command("rotate")
def endpoints_rotate(
    endpoint: EndpointRef,
    secret_env: SecretEnv = None,
    overlap: Annotated[
        float | None,
        typer.Option("--overlap", min=0, metavar="SECONDS", help="How long the secret before signs too; else a day."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Change the secret that signs, and print the new one."""
    from controlplane.cli.endpoints import rotate

    with client_of(server, api_key) as client:
        rotate(client, endpoint, secret_env=secret_env, overlap_seconds=overlap, as_json=as_json)


@app.command("test")
def endpoints_test(
    endpoint: EndpointRef, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Send an event now, and print what was sent and what came back."""
    from controlplane.cli.endpoints import test

    with client_of(server, api_key) as client:
        test(client, endpoint, as_json=as_json)


@app.command("delete")
def endpoints_delete(
    endpoint: EndpointRef, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete an endpoint; what is pending for it is dead."""
    from controlplane.cli.endpoints import delete

    with client_of(server, api_key) as client:
        delete(client, endpoint, as_json=as_json)
