"""What hints are about. A hint is never the truth: who waits for one also looks."""

from __future__ import annotations

from uuid import UUID

NODES = "nodes"
"""A process that is called has come, come back or gone."""
REGISTERED = "registered"
"""A node has said what it serves."""


def queue(namespace: int, target: str) -> str:
    """There is work for this target."""
    return f"queue:{namespace}:{target}"


def session(session_id: UUID) -> str:
    """Something that this session holds shall stop."""
    return f"session:{session_id}"


def process(session_id: UUID) -> str:
    """This process has registered again: it may have finished work while nobody of ours could hear it."""
    return f"process:{session_id}"


def slots(namespace: int, node_id: str) -> str:
    """An attempt of this node has ended and left a slot."""
    return f"slots:{namespace}:{node_id}"
