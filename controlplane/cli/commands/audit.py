"""Who changed what, and whether the log of it is whole."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli.commands.options import DEFAULT_SERVER, ApiKey, AsJson, Server, client_of

InNamespace = Annotated[
    str | None, typer.Option("--namespace", metavar="NAME", help="Another than the key's own, for admins of default.")
]
app = typer.Typer(help="Read the audit log, take it away, and see that nothing in it was changed.")


@app.command("list")
def audit_list(
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Of this key; or anybody, link, command, daemon.")
    ] = None,
    action: Annotated[
        str | None, typer.Option("--action", metavar="ACTION", help="As key.revoked, or its beginning, as key.")
    ] = None,
    object_id: Annotated[str | None, typer.Option("--object", metavar="ID", help="About this one.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="MOMENT", help="2030-01-31T09:00:00Z.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="MOMENT", help="Before then.")] = None,
    namespace: InNamespace = None,
    before: Annotated[int | None, typer.Option("--before", metavar="SEQ", help="Where the page before ended.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")] = 50,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List who changed what, newest first."""
    from controlplane.cli.audit import listing

    query: dict[str, str | int | None] = {
        "actor": actor,
        "action": action,
        "object": object_id,
        "since": since,
        "until": until,
        "namespace": namespace,
        "before": before,
        "limit": limit,
    }
    with client_of(server, api_key) as client:
        listing(client, query, as_json=as_json)


@app.command("verify")
def audit_verify(
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="An export (or - for stdin), without any server.")
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", metavar="SEQ:HASH", help="The head of an earlier day: it must be in it.")
    ] = None,
    namespace: InNamespace = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """See that every row is what was written; else say the first that is not."""
    from controlplane.cli.audit import verify, verify_file

    if file is not None:
        verify_file(file, head=head, as_json=as_json)
        return
    with client_of(server, api_key) as client:
        verify(client, namespace=namespace, head=head, as_json=as_json)


@app.command("export")
def audit_export(
    after: Annotated[int, typer.Option("--after", min=0, metavar="SEQ", help="Only what is behind this row.")] = 0,
    namespace: InNamespace = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
) -> None:
    """Print every row as a line of JSON, oldest first; the head is said at the end."""
    from controlplane.cli.audit import export

    with client_of(server, api_key) as client:
        export(client, after=after, namespace=namespace)
