"""The run whose finished children a child may take over: its parent knows it, or the headers of a dispatch name it."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import Request

from controlplane.api.body import clean
from controlplane.api.doors import Doors
from controlplane.api.fields import field
from controlplane.domain.execution import Replay, ReplayMode
from controlplane.domain.ids import read_fenced
from controlplane.errors import Invalid
from controlplane.reads import executions
from controlplane.reads.executions import Parent

SOURCE_HEADER = "X-AgentField-Replay-Source-Run-ID"
SOURCE_FIELD = SOURCE_HEADER.lower().encode()
BEFORE_HEADER = "X-AgentField-Replay-Before-Execution-ID"
MODE_HEADER = "X-AgentField-Replay-Mode"
HIT_HEADER = "X-AgentField-Replay-Hit"
REPLAY_HEADERS = {
    SOURCE_HEADER: "Take over what succeeded in this run, where target, input and context are equal.",
    BEFORE_HEADER: "Only what was accepted before this execution (mode succeeded-before).",
    MODE_HEADER: "succeeded-before (the default), all-succeeded or none.",
}


async def replay_of(
    request: Request, doors: Doors, namespace: int, bucket: int, run_id: str | None, parent: Parent | None
) -> tuple[Replay | None, list[dict[str, str]]]:
    """What a child may take over, and a warning when its headers name nothing that there is.

    The parent's own word counts before the headers, which an SDK only passes on. They refuse nothing: to AgentField's
    SDK a refused submit is one to send again.
    """
    if parent is not None and parent.replay is not None:
        return parent.replay, []
    if not field(request, SOURCE_FIELD):
        return None, []
    try:
        replay = _named(request)
    except Invalid as error:
        return None, [_ignored(f"{error.where}: {error.detail}")]
    if replay.source_run_id == run_id:
        return None, [_ignored("A run takes over nothing from itself.")]
    if not await doors.run(executions.knows_run, bucket, replay.source_run_id, namespace=namespace):
        return None, [_ignored("The run that it names is not known here.")]
    return replay, []


def _named(request: Request) -> Replay:
    before = request.headers.get(BEFORE_HEADER)
    mode = request.headers.get(MODE_HEADER) or ReplayMode.SUCCEEDED_BEFORE
    if mode not in list(ReplayMode):
        raise Invalid(f"One of {', '.join(ReplayMode)}.", where=MODE_HEADER)
    before_id: UUID | None = read_fenced(before, where=BEFORE_HEADER)[0] if before else None
    source = clean(request.headers[SOURCE_HEADER], where=SOURCE_HEADER)
    return Replay(source_run_id=source, mode=ReplayMode(mode), before_id=before_id)


def _ignored(why: str) -> dict[str, str]:
    return {"code": "replay_ignored", "message": f"Nothing is replayed. {why}"}
