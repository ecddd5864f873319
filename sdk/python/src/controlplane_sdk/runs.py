"""Runs: everything that grew from one submission, or that was submitted together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from controlplane_sdk.executions import Execution
from controlplane_sdk.transport import Transport

PAGE = 1_000


class Run(BaseModel):
    """How far a run is. `counts`: its executions by status; `truncated`: there are more than were counted."""

    model_config = ConfigDict(frozen=True, extra="allow")

    run_id: str
    root_execution_id: str
    target: str
    status: str
    status_reason: str | None = None
    created_at: str | None = None
    completed_at: str | None = None
    executions: int = 0
    unfinished: int = 0
    counts: dict[str, int] = {}
    truncated: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing of it is unfinished."""
        return self.unfinished == 0


class RunMember(Execution):
    """An execution of a run, without its result."""

    parent_execution_id: str | None = None


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, newest first, and the cursor to the next ones."""

    items: Sequence[Run]
    next_cursor: str | None


class Runs:
    """`client.runs`. Every call may be sent again after a lost answer and says the same thing."""

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds

    async def list(self, *, target: str | None = None, limit: int = 50, cursor: str | None = None) -> RunPage:
        """Runs, newest first; `target` is that of their first execution."""
        body = await self._ask("GET", "", target=target, limit=str(limit), cursor=cursor)
        return RunPage([Run.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def get(self, run_id: str) -> Run:
        """How far the run is. Raises: NotFound."""
        return Run.model_validate(_without_items(await self._ask("GET", _path(run_id), limit="0")))

    async def tree(self, run_id: str) -> Sequence[RunMember]:
        """All executions of the run, parents before their children. Raises: NotFound."""
        found: list[RunMember] = []
        cursor: str | None = None
        while True:
            body = await self._ask("GET", _path(run_id), limit=str(PAGE), cursor=cursor)
            found += [RunMember.model_validate({"run_id": run_id} | item) for item in body["items"]]
            cursor = body.get("next_cursor")
            if cursor is None:
                return found

    async def cancel(self, run_id: str, reason: str | None = None) -> int:
        """Cancel everything unfinished of it, and say how much that was. Raises: NotFound."""
        cancelled = 0
        while True:
            body = await self._ask("POST", _path(run_id) + "/cancel", {"reason": reason} if reason else {})
            cancelled += int(body["cancelled"])
            if not body["truncated"]:
                return cancelled

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, **params: str | None) -> Any:
        return await self._transport().ask(
            method,
            "/runs" + path,
            body,
            params=params,
            patience_seconds=self._patience_seconds,
        )


def _path(run_id: str) -> str:
    return f"/{quote(run_id, safe='')}"


def _without_items(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in ("items", "next_cursor")}
