"""The audit log of a namespace: read it, take it away, and see that nothing in it was changed."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.body import clean
from controlplane.api.doors import doors_of
from controlplane.api.keys import NAMESPACE_QUERY, namespace_in_query
from controlplane.api.operation import ADMIN, Operation
from controlplane.api.paging import integer, query_instant
from controlplane.api.shapes import Shape, answer, raw
from controlplane.domain.audit import PLACE, TEXT_CHARS_MAX, Audited, Mark
from controlplane.domain.key import Namespace
from controlplane.reads import audit
from controlplane.reads.audit import Page, Verified, Wanted

LIMIT_DEFAULT = 50
LIMIT_MAX = 1_000
SEQ_MAX = 2**63 - 1


async def page(request: Request) -> Response:
    """The newest first; with `after` the oldest first, from behind this number on."""
    doors, namespace = doors_of(request), await namespace_in_query(request)
    limit = integer(request, "limit", default=LIMIT_DEFAULT, least=1, most=LIMIT_MAX)
    wanted = Wanted(
        actor=_text(request, "actor"),
        action=_text(request, "action"),
        object_id=_text(request, "object"),
        since=query_instant(request, "since"),
        until=query_instant(request, "until"),
    )
    after, before = _seq(request, "after"), _seq(request, "before")
    bucket = doors.placement.of_key(namespace.id, PLACE)
    if after is not None:
        found = await doors.run(audit.oldest, bucket, wanted, namespace=namespace.id, after=after, limit=limit)
        return answer(_page(found) | {"next_after": found.following})
    found = await doors.run(audit.newest, bucket, wanted, namespace=namespace.id, before=before, limit=limit)
    return answer(_page(found) | {"next_before": found.following})


async def verify(request: Request) -> Response:
    """Whether every row is what was written, as far as one request goes along the chain; `after` goes on from there."""
    doors, namespace = doors_of(request), await namespace_in_query(request)
    found = await doors.run(
        audit.verify,
        doors.placement.of_key(namespace.id, PLACE),
        namespace=namespace.id,
        after=_mark(request, "after"),
        kept=_mark(request, "head"),
    )
    return answer(_verified(namespace, found))


def _page(found: Page) -> Shape:
    return {"items": [_row(one) for one in found.rows]}


def _row(one: Audited) -> Shape:
    facts = {"before": raw(one.before), "after": raw(one.after)}
    return one.shape() | {name: said for name, said in facts.items() if said is not None}


def _verified(namespace: Namespace, found: Verified) -> Shape:
    """`end`: how far it holds. `head`: what to keep elsewhere, to be asked for on another day."""
    walked, broken = found.walked, found.walked.broken
    return {
        "namespace": namespace.name,
        "holds": broken is None,
        "complete": found.complete,
        "rows": walked.rows,
        "begin": str(walked.begin),
        "end": str(walked.end),
        "head": str(found.chain.head),
        "removed": str(found.chain.removed),
        "broken": None if broken is None else {"seq": broken.seq, "why": broken.why},
    }


def _seq(request: Request, name: str) -> int | None:
    if name not in request.query_params:
        return None
    return integer(request, name, default=0, least=0, most=SEQ_MAX)


def _mark(request: Request, name: str) -> Mark | None:
    text = request.query_params.get(name)
    return Mark.read(text, where=f"query/{name}") if text else None


def _text(request: Request, name: str) -> str | None:
    text = request.query_params.get(name)
    return clean(text, where=f"query/{name}", chars_max=2 * TEXT_CHARS_MAX) if text else None


LOOK = {404: "There is no such namespace.", 422: "Not valid.", 503: "Try again."}

OPERATIONS = [
    Operation(
        scope=ADMIN,
        method="GET",
        path="/api/v1/audit",
        handler=page,
        summary="Who changed what, newest first",
        tag="audit",
        query={
            "actor": "The name of a key; of who has none: environment, anybody, link, command or daemon",
            "action": "As key.revoked; or its beginning, as key",
            "object": "The id or the name of what was changed",
            "since": "From this moment on: 2030-01-31T09:00:00Z",
            "until": "Before this moment",
            "after": "Oldest first, behind this number: 0, or next_after of the page before",
            "before": "Newest first, below this number: next_before of the page before",
            "limit": "1 to 1,000, 50 by default; a page may hold fewer and yet not be the last",
        }
        | NAMESPACE_QUERY,
        answers={200: "A page.", **LOOK},
    ),
    Operation(
        scope=ADMIN,
        method="GET",
        path="/api/v1/audit/verify",
        handler=verify,
        summary="Whether the audit log is as it was written",
        tag="audit",
        query={
            "after": "Go on behind this row: `end` of the answer before",
            "head": "A `head` of an earlier day, which must be in it still",
        }
        | NAMESPACE_QUERY,
        answers={200: "How far it holds; `broken` is the first row that does not.", **LOOK},
    ),
]
