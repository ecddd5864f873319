"""What of AgentField is not here, by path: asked for, it answers 404 at once and says so.

`*` stands for one segment; everything below a path belongs to it. What is served is found before this is asked.
"""

from __future__ import annotations

PAGE = "docs/compatibility.md"
SEGMENTS_MAX = 10

IDENTITIES = "Identities and verifiable credentials"
POLICIES = "Access policies and approval of tags"
DASHBOARD = "AgentField's dashboard"
SESSIONS = "Real-time sessions"
TRIGGERS = "Triggers"
KNOWLEDGE = "The self-describing API for agents"

PARTS = {
    "/api/v1/did": IDENTITIES,
    "/api/v1/vc": IDENTITIES,
    "/api/v1/execution/vc": IDENTITIES,
    "/api/v1/agents/*/did.json": IDENTITIES,
    "/agents/*/did.json": IDENTITIES,
    "/.well-known/did.json": IDENTITIES,
    "/api/ui/v1/did": IDENTITIES,
    "/api/ui/v1/vc": IDENTITIES,
    "/api/v1/policies": POLICIES,
    "/api/v1/revocations": POLICIES,
    "/api/v1/registered-dids": POLICIES,
    "/api/v1/agents/*/tag-vc": POLICIES,
    "/api/v1/admin": POLICIES,
    "/api/v1/connector": "Remote management by connectors",
    "/api/v1/settings": "The webhook for all events",
    "/api/v1/configs": "Storage of configuration files",
    "/api/v1/agentic": KNOWLEDGE,
    "/api/v1/sources": TRIGGERS,
    "/api/v1/session-targets": SESSIONS,
    "/api/v1/session-instances": SESSIONS,
    "/api/v1/llm": "The health of language models",
    "/api/ui/v1/llm": "The health of language models",
    "/api/ui/v1/queue": "The status of queues in front of language models",
    "/api/v1/usage": "Summaries of cost and usage",
    "/api/ui/v1/usage": "Summaries of cost and usage",
    "/api/v1/costs": "Summaries of cost and usage",
    "/mcp": "The control plane as an MCP server",
    "/api/v1/mcp": "The control plane as an MCP server",
    "/api/ui/v1/nodes": DASHBOARD,
    "/api/ui/v1/agents": DASHBOARD,
    "/api/ui/v1/packages": DASHBOARD,
    "/api/ui/v1/reasoners": DASHBOARD,
    "/api/ui/v1/dashboard": DASHBOARD,
    "/api/ui/v1/workflows": DASHBOARD,
    "/api/ui/v1/executions/*/logs/stream": DASHBOARD,
    "/api/ui/v1/mcp": DASHBOARD,
    "/api/ui/v1/settings": DASHBOARD,
    "/api/ui/v2": DASHBOARD,
}


def part_of(path: str) -> str | None:
    """The part of AgentField that this path belongs to, when it is one that is not here."""
    segments = path.split("/")[:SEGMENTS_MAX]
    for length in range(len(segments), 1, -1):
        head = segments[:length]
        for one in ("/".join(head), *("/".join([*head[:n], "*", *head[n + 1 :]]) for n in range(2, length))):
            if one in PARTS:
                return PARTS[one]
    return None
