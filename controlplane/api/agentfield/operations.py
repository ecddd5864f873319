"""Every route of AgentField's protocol that is nobody else's."""

from __future__ import annotations

from controlplane.api.agentfield import (
    actions,
    approvals,
    callbacks,
    calls,
    discovery,
    identities,
    logs,
    processes,
    runs,
    vectors,
    workflow,
)

OPERATIONS = [
    *processes.OPERATIONS,
    *callbacks.OPERATIONS,
    *logs.OPERATIONS,
    *workflow.OPERATIONS,
    *vectors.OPERATIONS,
    *discovery.OPERATIONS,
    *calls.OPERATIONS,
    *runs.OPERATIONS,
    *actions.OPERATIONS,
    *approvals.OPERATIONS,
    *identities.OPERATIONS,
]
