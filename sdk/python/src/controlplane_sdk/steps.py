"""Steps: the memo of what an execution has done, so that whoever runs it again does not do it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk import strict_json
from controlplane_sdk.context import Fence
from controlplane_sdk.transport import Transport
from controlplane_sdk.writes import Writes

PAGE = 1_000
PENDING, DONE = "pending", "done"


class Step(BaseModel):
    """One durable thing that an execution did, or waits for. Fields that a newer control plane adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    kind: str
    status: str
    value: Any = None
    attempt: int = 0
    timed_out: bool | None = None
    due_in_seconds: float | None = None
    due_at: str | None = None
    child_id: str | None = None
    approval_request_url: str | None = None
    created_at: str | None = None
    done_at: str | None = None

    @property
    def done(self) -> bool:
        """Whether it is over; a wait may also have been over because its time was."""
        return self.status != PENDING


class Steps:
    """Writes of steps: the first of a name stays, and every later one is answered with it."""

    def __init__(self, transport: Transport) -> None:
        self._writes = Writes(transport, "/steps/write", name="steps")

    async def write(self, fence: Fence, op: Mapping[str, Any]) -> Step:
        """The step as it is now. Raises: NotJson, LeaseLost, RequestRefused, ServerUnreachable."""
        group = {"execution_id": fence.execution_id, "attempt": fence.attempt, "ops": [op]}
        written = await self._writes.put(strict_json.encode(group))
        return Step.model_validate(written["steps"][0])

    async def idle(self) -> None:
        await self._writes.idle()

    def close(self) -> None:
        self._writes.close()


async def read(transport: Transport, execution_id: str, *, patience_seconds: float | None) -> list[Step]:
    """Every step of an execution, in the order in which they began. Raises: NotFound, ServerUnreachable."""
    path = f"/executions/{quote(execution_id, safe='')}/steps"
    found: list[Step] = []
    asked = {"limit": str(PAGE)}
    while True:
        reply = await transport.send_until_answered("GET", path, params=asked, patience_seconds=patience_seconds)
        body = reply.expect()
        found += [Step.model_validate(item) for item in body["steps"]]
        if (cursor := body.get("next_cursor")) is None:
            return sorted(found, key=lambda step: step.created_at or "")
        asked["after"] = str(cursor)
