"""What a child of the nursery can be: a server, an agent, a caller.

Imported in the nursery alone, once its modules are imported with their points: no child has to import anything.
"""

from __future__ import annotations

from collections.abc import Callable

import uvicorn.lifespan.on
import uvicorn.loops.auto
import uvicorn.protocols.websockets.auto  # noqa: F401 - uvicorn imports these three when it begins

from controlplane.cli import serve as server
from tests.crash.awaits import callers, reasoners


def serve() -> None:
    """The server, as `controlplane serve` runs it."""
    server.serve(host=None, port=None, workers=None, database_url=None)


def agent(node_id: str) -> None:
    """A node on our SDK."""
    reasoners.make(node_id).run()


def call(story: str, node_id: str, key: str, says: str) -> None:
    """A program on our SDK that starts executions and waits for their results."""
    callers.run(story, node_id, key, says)


PARTS: dict[str, Callable[..., None]] = {"serve": serve, "agent": agent, "call": call}
