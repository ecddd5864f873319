"""What people are asked, and what they say."""

# ruff: noqa: PLC0415 - see the package

from __future__ import annotations

from typing import Annotated

import typer

from controlplane.cli.commands.options import DEFAULT_SERVER, ApiKey, AsJson, ExecutionId, Server, client_of

app = typer.Typer(help="List and show what executions ask people, approve and reject it.")
Feedback = Annotated[str | None, typer.Option("--feedback", metavar="TEXT", help="What to tell who asked.")]
AnswerJson = Annotated[
    str | None, typer.Option("--response", metavar="JSON", help="An answer beyond yes or no; @file, or - for stdin.")
]
RequestId = Annotated[
    str | None,
    typer.Option("--approval-request-id", metavar="ID", help="Which of several questions; else the one that is open."),
]


@app.command("list")
def approvals_list(
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many that wait are looked at.")] = 50,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List what executions ask people just now, the newest execution first."""
    from controlplane.cli.approvals import listing

    with client_of(server, api_key) as client:
        listing(client, limit=limit, as_json=as_json)


@app.command("show")
def approvals_show(
    execution_id: ExecutionId,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show what an execution asks, or asked last."""
    from controlplane.cli.approvals import show

    with client_of(server, api_key) as client:
        show(client, execution_id, as_json=as_json)


@app.command("approve")
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


@app.command("reject")
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

    with client_of(server, api_key) as client:
        decide(
            client,
            execution_id,
            decision,
            feedback=feedback,
            response=response,
            request_id=request_id,
            as_json=as_json,
        )
