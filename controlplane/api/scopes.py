"""Which scope a request means: what its body or query says, else the first id among its headers."""

from __future__ import annotations

import msgspec
from starlette.requests import Request

from controlplane.api.body import clean
from controlplane.api.doors import Doors, namespace_of
from controlplane.domain.ids import ExecutionId, is_execution, read_fenced
from controlplane.domain.lease import Fence
from controlplane.domain.memory import (
    GLOBAL_ID,
    KEY_MAX,
    SCOPE_ID_MAX,
    SCOPE_WORDS,
    SEARCH_ORDER,
    WORKFLOW,
    Op,
    Place,
    Scope,
    Write,
)
from controlplane.errors import Invalid

HEADERS_OF: dict[Scope, tuple[str, ...]] = {
    Scope.RUN: ("x-workflow-id", "x-run-id"),
    Scope.SESSION: ("x-session-id",),
    Scope.ACTOR: ("x-actor-id",),
    Scope.GLOBAL: (),
}
HEADERS = {
    "X-Execution-ID": "exec_…~attempt: only while this attempt holds its lease.",
    "X-Run-ID": "The run (X-Workflow-ID, too).",
    "X-Session-ID": "The session scope.",
    "X-Actor-ID": "The actor scope.",
    "X-Agent-Node-ID": "The node that writes; told with the change.",
}


class Around(msgspec.Struct):
    """In whose name a request speaks, and the ids of its scopes. `workflow`: it names its run as AgentField does."""

    namespace: int
    fence: Fence | None
    writer: ExecutionId | None
    scope_ids: dict[Scope, str]
    workflow: bool
    node_id: str | None = None

    def again(self) -> Around:
        """The same for another group of the request, which may say more of itself."""
        return msgspec.structs.replace(self, scope_ids=dict(self.scope_ids))

    def write(self, ops: tuple[Op, ...]) -> Write:
        """These operations, in the name of who speaks."""
        return Write(
            ops=ops,
            fence=self.fence,
            writer=self.writer,
            run_id=self.scope_ids.get(Scope.RUN),
            node_id=self.node_id,
            actor_key=self.scope_ids.get(Scope.ACTOR),
        )


def around_of(request: Request) -> Around:
    """What the headers say: AgentField's clients send their context with every memory call."""
    scope_ids: dict[Scope, str] = {}
    for scope, names in HEADERS_OF.items():
        for name in names:
            text = request.headers.get(name)
            if text:
                scope_ids.setdefault(scope, clean(text, where=name, chars_max=SCOPE_ID_MAX))
    speaker = request.headers.get("x-execution-id", "")
    id_, attempt = read_fenced(speaker, where="X-Execution-ID") if is_execution(speaker) else (None, None)
    fence = None if id_ is None or attempt is None else Fence(id_, attempt)
    workflow = bool(request.headers.get(HEADERS_OF[Scope.RUN][0]))
    node_id = request.headers.get("x-agent-node-id") or None
    return Around(
        namespace=namespace_of(request),
        fence=fence,
        writer=id_,
        scope_ids=scope_ids,
        workflow=workflow,
        node_id=None if node_id is None else clean(node_id, where="X-Agent-Node-ID"),
    )


def scopes_around(around: Around) -> list[Scope]:
    """The scopes that the headers have an id for, the nearest first."""
    return [scope for scope in SEARCH_ORDER if scope is Scope.GLOBAL or scope in around.scope_ids]


def place_of(doors: Doors, around: Around, key: str, word: str | None, scope_id: str | None, where: str) -> Place:
    """Where this key is kept; without a scope in the nearest. Raises Invalid."""
    clean(key, where=f"{where}.key", chars_max=KEY_MAX)
    scope = scope_of(word, f"{where}.scope") if word else scopes_around(around)[0]
    if scope is Scope.GLOBAL:
        id_ = GLOBAL_ID
    elif scope_id is not None:
        id_ = clean(scope_id, where=f"{where}.scope_id", chars_max=SCOPE_ID_MAX)
    elif scope in around.scope_ids:
        id_ = around.scope_ids[scope]
    else:
        raise Invalid(
            f"The scope {scope.value} needs an id.",
            where=f"{where}.scope_id",
            fix=f"Send scope_id or the header {HEADERS_OF[scope][0].title()}.",
        )
    placement = doors.placement
    run = scope is Scope.RUN
    bucket = placement.of_run(around.namespace, id_) if run else placement.of_key(around.namespace, scope.value, id_)
    return Place(bucket, around.namespace, scope, id_, key)


def scope_of(word: str, where: str) -> Scope:
    """The scope of this name, ours or AgentField's. Raises Invalid."""
    try:
        return SCOPE_WORDS[word]
    except KeyError:
        raise Invalid("One of run, session, actor, global (workflow is run).", where=where) from None


def word_for(scope: Scope, around: Around, asked: str | None) -> str:
    """The name of a scope in an answer: a run is a `workflow` to whoever calls it so."""
    workflow = asked == WORKFLOW if asked else around.workflow
    return WORKFLOW if workflow and scope is Scope.RUN else scope.value
