"""Who may come in, and to which namespace."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import DEFAULT_SERVER, ApiKey, AsJson, Server, client_of

KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Its id, key_….")]
InNamespace = Annotated[
    str | None, typer.Option("--namespace", metavar="NAME", help="Another than the key's own, for admins of default.")
]
ExpiresIn = Annotated[float | None, typer.Option("--expires-in", min=1, metavar="SECONDS", help="Else it never does.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Where the page before ended.")]

app = typer.Typer(help="Make, list, rotate and revoke API keys.")
namespaces_app = typer.Typer(help="Make and list namespaces, each with its own keys, nodes and work.")


@app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for: it is told of what is done with it.")],
    scope: Annotated[
        list[str], typer.Option("--scope", help="execute, read, operate, admin or node; may be said several times.")
    ],
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="NODE", help="With the scope node: as which it speaks; * at the end: any rest."),
    ] = None,
    namespace: InNamespace = None,
    expires_in: ExpiresIn = None,
    hide_payloads: Annotated[
        bool,
        typer.Option("--hide-payloads", help="It sees that inputs, results and texts are there, not what they are."),
    ] = False,
    database_url: Annotated[
        str | None,
        typer.Option("--database-url", metavar="DSN", help="Ask no server: for the first key of all, or a lost one."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""
    from controlplane.cli.keys import create

    scopes = [word for words in scope for word in words.split(",")]
    if database_url is not None:
        from controlplane.cli.first_key import create_in

        create_in(
            database_url,
            name=name,
            scopes=scopes,
            node_ids=node or [],
            namespace=namespace,
            expires_in_seconds=expires_in,
            hide_payloads=hide_payloads,
            as_json=as_json,
        )
        return
    asked = {
        "name": name,
        "scopes": scopes,
        "node_ids": node or None,
        "namespace": namespace,
        "expires_in_seconds": expires_in,
        "hide_payloads": hide_payloads or None,
    }
    with client_of(server, api_key) as client:
        create(client, asked, as_json=as_json)


@app.command("list")
def keys_list(
    namespace: InNamespace = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List keys, newest first: never themselves."""
    from controlplane.cli.keys import listing

    with client_of(server, api_key) as client:
        listing(client, namespace=namespace, limit=limit, cursor=cursor, as_json=as_json)


@app.command("revoke")
def keys_revoke(
    key_id: KeyId,
    namespace: InNamespace = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let nobody in by a key any more, at once and for good."""
    from controlplane.cli.keys import revoke

    with client_of(server, api_key) as client:
        revoke(client, key_id, namespace=namespace, as_json=as_json)


@app.command("rotate")
def keys_rotate(
    key_id: KeyId,
    overlap: Annotated[
        float | None,
        typer.Option("--overlap", min=0, metavar="SECONDS", help="The old one goes on for so long; a day by default."),
    ] = None,
    expires_in: Annotated[
        float | None,
        typer.Option("--expires-in", min=1, metavar="SECONDS", help="Else it lives as long as the old one was to."),
    ] = None,
    namespace: InNamespace = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a key in place of another and print it, this once."""
    from controlplane.cli.keys import rotate

    asked = {"overlap_seconds": overlap, "expires_in_seconds": expires_in}
    with client_of(server, api_key) as client:
        rotate(client, key_id, asked, namespace=namespace, as_json=as_json)


@app.command("ticket")
def keys_ticket(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Of a stream: /api/ui/v1/executions/events.")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print a ticket that opens one stream, once, within a minute: for browsers, instead of a key in an address."""
    from controlplane.cli.keys import create_ticket

    with client_of(server, api_key) as client:
        create_ticket(client, path, as_json=as_json)


@namespaces_app.command("create")
def namespaces_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, _ - and :.")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a namespace, with nothing in it and no key yet."""
    from controlplane.cli.keys import create_namespace

    with client_of(server, api_key) as client:
        create_namespace(client, name, as_json=as_json)


@namespaces_app.command("list")
def namespaces_list(
    limit: Limit = 50,
    cursor: Cursor = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List namespaces by name."""
    from controlplane.cli.keys import list_namespaces

    with client_of(server, api_key) as client:
        list_namespaces(client, limit=limit, cursor=cursor, as_json=as_json)


@namespaces_app.command("caps")
def namespaces_caps(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of which namespace.")] = "default",
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show how much a namespace may have, and what it has."""
    from controlplane.cli.keys import show_caps

    with client_of(server, api_key) as client:
        show_caps(client, name, as_json=as_json)


@namespaces_app.command("set-caps")
def namespaces_set_caps(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of which namespace.")],
    caps: Annotated[
        list[str] | None,
        typer.Argument(metavar="CAP=NUMBER", help="All that differ from the server's; CAP=unlimited: any number."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Set how much a namespace may have; what is not named is as the server says of all."""
    from controlplane.cli.keys import set_caps

    with client_of(server, api_key) as client:
        set_caps(client, name, caps or [], as_json=as_json)
