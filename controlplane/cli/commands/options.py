"""Options that several commands have, and what they have in common."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

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
        help="A key of the server.",
        rich_help_panel="Server",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ExecutionId = Annotated[str, typer.Argument(metavar="EXECUTION", help="Its id, exec_….")]
Delay = Annotated[
    float | None,
    typer.Option("--delay", "--delay-seconds", min=0, metavar="SECONDS", help="Begin so much later; 366 days at most."),
]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for those who look at it later.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Its id, run_… or as its caller has named it.")]
Target = Annotated[str | None, typer.Option("--target", help="node_id.reasoner_name")]
OfNode = Annotated[str | None, typer.Option("--node", "--node-id", metavar="NODE", help="Those of one node.")]
OfRun = Annotated[str | None, typer.Option("--run", "--run-id", metavar="RUN", help="Those of one run.")]
SessionKey = Annotated[str | None, typer.Option("--session", "--session-id", metavar="ID", help="Of this session.")]
ActorKey = Annotated[str | None, typer.Option("--actor", "--actor-id", metavar="ID", help="Of this actor.")]
ErrorClass = Annotated[str | None, typer.Option("--error-class", metavar="CLASS", help="Ended with this error.")]
CreatedAfter = Annotated[str | None, typer.Option("--created-after", metavar="MOMENT", help="2030-01-31T09:00:00Z.")]
CreatedBefore = Annotated[str | None, typer.Option("--created-before", metavar="MOMENT", help="Up to then.")]
EndedAfter = Annotated[str | None, typer.Option("--ended-after", metavar="MOMENT", help="Ended (or died) from then.")]
EndedBefore = Annotated[str | None, typer.Option("--ended-before", metavar="MOMENT", help="Up to then.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="Stop waiting after so long; the execution goes on."),
]


def given(context: typer.Context, name: str) -> bool:
    """Whether it stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def client_of(server: str, api_key: str | None) -> Client:
    from controlplane.cli.client import Client

    return Client(server, api_key)


def again(server: str, command: str = "executions wait") -> str:
    """The command that waits for an execution on this server, or another one that takes an id."""
    there = "" if server == DEFAULT_SERVER else f" --server {shlex.quote(server)}"
    return f"controlplane {command}{there}"
