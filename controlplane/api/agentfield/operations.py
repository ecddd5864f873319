"""Every route of AgentField's protocol that is nobody else's."""

from __future__ import annotations

from controlplane.api.agentfield import callbacks, logs, processes, vectors, workflow

OPERATIONS = [
    *processes.OPERATIONS,
    *callbacks.OPERATIONS,
    *logs.OPERATIONS,
    *workflow.OPERATIONS,
    *vectors.OPERATIONS,
]
