"""Nodes, and what is held back from them."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import DEFAULT_SERVER, ApiKey, AsJson, Reason, Server, client_of, given

NodeId = Annotated[str, typer.Argument(metavar="NODE", help="The id of the node.")]
app = typer.Typer(help="List nodes; let one drain, or forget one.", invoke_without_command=True)
pauses_app = typer.Typer(help="See what is paused.")


@app.callback()
def nodes(
    context: typer.Context,
    show_all: Annotated[bool, typer.Option("--all", help="Also those that are not connected now.")] = False,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the nodes that are connected; let one drain, or forget one."""
    from controlplane.cli.nodes import before, listing

    if context.invoked_subcommand is not None:
        before(name for name in context.params if given(context, name))
        return

    with client_of(server, api_key) as client:
        listing(client, show_all=show_all, as_json=as_json)


@app.command("drain")
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

    with client_of(server, api_key) as client:
        drain(client, node_id, "drain", reason=reason, as_json=as_json)


@app.command("undrain")
def nodes_undrain(
    node_id: NodeId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Give the processes of a node work again."""
    from controlplane.cli.nodes import drain

    with client_of(server, api_key) as client:
        drain(client, node_id, "undrain", reason=None, as_json=as_json)


@app.command("forget")
def nodes_forget(
    node_id: NodeId, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Let a node that is gone for good leave the list, with all that it served. Its executions stay.

    Refused, with what stands in the way, while it is connected, has unfinished work, or something submits to it.
    """
    from controlplane.cli.nodes import forget

    with client_of(server, api_key) as client:
        forget(client, node_id, as_json=as_json)


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

    with client_of(server, api_key) as client:
        listing(client, limit=limit, cursor=cursor, as_json=as_json)
