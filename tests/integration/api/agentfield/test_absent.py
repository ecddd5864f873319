"""What of AgentField is not here says so, at once, in the form of every error."""

from __future__ import annotations

import time

import pytest

from controlplane.api.agentfield.absent import PAGE
from tests.integration.api.serving import Api

ABSENT = {
    "Identities": [
        "/api/v1/did/resolve/did:web:x",
        "/api/v1/did/workflow/run_1/vc-chain",
        "/api/v1/execution/vc",
        "/.well-known/did.json",
        "/agents/n/did.json",
        "/api/v1/agents/n/did.json",
    ],
    "Access policies": [
        "/api/v1/policies",
        "/api/v1/revocations",
        "/api/v1/registered-dids",
        "/api/v1/admin/public-key",
        "/api/v1/admin/tags/pending",
        "/api/v1/agents/n/tag-vc",
    ],
    "Remote management": ["/api/v1/connector/config"],
    "The webhook for all events": ["/api/v1/settings/observability-webhook/dlq"],
    "Storage of configuration": ["/api/v1/configs/a"],
    "The self-describing API": ["/api/v1/agentic/kb/topics", "/api/v1/agentic/status"],
    "AgentField's dashboard": [
        "/api/ui/v1/nodes/n/logs",
        "/api/ui/v1/nodes/events",
        "/api/ui/v1/reasoners/events",
        "/api/ui/v1/agents",
        "/api/ui/v1/packages",
        "/api/ui/v1/dashboard/summary",
        "/api/ui/v1/workflows/run_1/notes/events",
        "/api/ui/v1/executions/exec_1/logs/stream",
        "/api/ui/v1/mcp/status",
        "/api/ui/v2/workflow-runs",
    ],
    "The control plane as an MCP server": ["/mcp"],
    "The health of language models": ["/api/ui/v1/llm/health"],
    "The status of queues": ["/api/ui/v1/queue/status"],
    "Summaries of cost": ["/api/v1/usage/summary"],
    "Triggers": ["/api/v1/sources/x"],
    "Real-time sessions": ["/api/v1/session-targets/n.s/start", "/api/v1/session-instances/x/realtime-offer"],
}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("part", ABSENT)
async def test_a_part_that_is_not_here(shared: Api, part: str, method: str) -> None:
    """404 that names the part and the page which says what there is, whatever the method and the body."""
    for path in ABSENT[part]:
        answer = await shared.client.request(method, path, content=b"{" if method != "GET" else None)
        body = answer.json()

        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert body["message"].startswith(part), path
        assert "is not served here" in body["message"]
        assert PAGE in body["message"]


async def test_an_identity_is_refused_at_once(shared: Api) -> None:
    """200 that says no, however long the body is: the agent's event loop waits for it."""
    reasoners = [{"id": f"r{n}", "input_schema": {"x": "y" * 500}} for n in range(200)]

    started = time.monotonic()
    answer = await shared.post("/did/register", {"agent_node_id": "n", "reasoners": reasoners, "skills": []})
    again = await shared.client.post("/api/v1/did/register", content=b"no json")

    assert time.monotonic() - started < 2
    assert (answer.status_code, again.status_code) == (200, 200)
    assert answer.json()["success"] is False
    assert PAGE in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/api/v1/memory/sets", "/api/v1/memory/set"),
        ("/api/v1/executions/exec_01kaaaaaaaaaaaaaaaaaaaaaaa/cancell", "/api/v1/executions/{execution_id}/cancel"),
        ("/api/v1/node", "/api/v1/nodes"),
        ("/api/v1/discovery/capability", "/api/v1/discovery/capabilities"),
    ],
)
async def test_a_misspelled_path_names_the_nearest(shared: Api, path: str, near: str) -> None:
    """As newer servers of AgentField do."""
    body = (await shared.client.post(path)).json()

    assert f" {near}" in body["fix"]


@pytest.mark.parametrize("path", ["/" + "a/" * 2_000, "/api/v1/" + "x" * 8_000, "/api/v1/agents/*/did.jsonx", "/*"])
async def test_paths_that_lead_nowhere(shared: Api, path: str) -> None:
    """Quickly, however long they are."""
    started = time.monotonic()
    answer = await shared.client.get(path)

    assert answer.status_code == 404
    assert answer.json()["detail"] == "There is no such path."
    assert time.monotonic() - started < 2
