"""One page for one question: who has the link may approve or reject, once, with a comment. Looking decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from controlplane.api.audited import Noted, audited
from controlplane.api.body import read_body, spoken
from controlplane.api.doors import Doors, doors_of
from controlplane.api.operation import OPEN, Operation
from controlplane.domain.approval import Approval, Decision, decision_of
from controlplane.domain.ids import ExecutionId, bucket_of, show_execution
from controlplane.domain.notice import moment
from controlplane.errors import Invalid, Malformed, NoApprovalRequest
from controlplane.reads import approvals, executions
from controlplane.security.link import read_link, sign_link
from controlplane.stages import approve
from controlplane.stages.approve import Answered

PREFIX = "/approvals/"
FORM_BYTES_MAX = 262_144
FIELDS_MAX = 10
FEEDBACK_CHARS_MAX = 10_000

DECIDED = {
    Decision.APPROVED: "Approved",
    Decision.REJECTED: "Rejected",
    Decision.REQUEST_CHANGES: "Changes were requested",
    Decision.EXPIRED: "Over: nobody decided in time, or the execution has ended",
}

# No script, no frame, nothing from elsewhere, and the address, which is a key, goes nowhere.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; color: #1a1a1a }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere }}
dt {{ color: #666; font-size: .85rem; margin-top: .6rem }}
dd {{ margin: 0; overflow-wrap: anywhere }}
textarea {{ width: 100%; box-sizing: border-box; min-height: 6rem; font: inherit; padding: .5rem }}
button {{ font: inherit; padding: .5rem 1.2rem; margin: .8rem .5rem 0 0; border: 1px solid #888; border-radius: 4px }}
button.yes {{ background: #146c2e; border-color: #146c2e; color: #fff }}
.said {{ padding: .8rem 1rem; background: #f1f3f4; border-radius: 4px; overflow-wrap: anywhere }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #1b1b1b; color: #eee }}
  textarea, button {{ background: #2a2a2a; color: #eee }}
  dt {{ color: #aaa }}
  .said {{ background: #2a2a2a }}
}}
</style>
</head>
<body>
<h1>{title}</h1>
{said}
<dl>{facts}</dl>
{form}
</body>
</html>
"""

FORM = """<form method="post">
<label for="feedback">Comment</label>
<textarea id="feedback" name="feedback" maxlength="{chars_max}"></textarea>
<button class="yes" name="decision" value="approved">Approve</button>
<button name="decision" value="rejected">Reject</button>
</form>"""


def link_of(doors: Doors, id_: ExecutionId, request_id: str) -> str:
    """Where people decide this question without a key."""
    return f"{doors.public_url}{PREFIX}{sign_link(doors.keyring, id_, request_id)}"


def linked(doors: Doors, one: Approval) -> Approval:
    """A question that a step asks, with our page for it where the asker has given none."""
    if not one.durable or one.url is not None or one.status is not Decision.PENDING:
        return one
    return replace(one, url=link_of(doors, one.execution_id, one.request_id))


async def show(request: Request) -> Response:
    """The question, and two buttons as long as it is open. To read it changes nothing."""
    doors = doors_of(request)
    return await _page(doors, *await _asked(request, doors))


async def decide(request: Request) -> Response:
    """What the form says is decided, if nothing was decided before."""
    doors = doors_of(request)
    asked, namespace = await _asked(request, doors)
    decision, feedback = _form(await read_body(request, min(FORM_BYTES_MAX, doors.limits.body_bytes_max)))
    answered = await audited(
        request,
        lambda done: decided(done, [asked.execution_id], namespace) if done.processed else None,
        approve.decide,
        asked.execution_id,
        namespace=namespace,
        request_id=asked.request_id,
        decision=decision,
        feedback=feedback,
        response=None,
        make_id=doors.ids.new,
    )
    if answered.processed:
        doors.woken(answered.ready)
        doors.due()
    return await _page(doors, answered.approval, namespace, status=200 if answered.processed else 409)


def decided(answered: Answered, ids: Sequence[ExecutionId], namespace: int) -> Noted:
    """What the audit log says of it: not what people wrote."""
    status = answered.approval.status.value
    return Noted(
        kind="approval",
        id=answered.approval.request_id,
        before={"status": Decision.PENDING.value if answered.processed else status},
        after={"status": status, "execution_ids": [show_execution(id_) for id_ in ids]},
        namespace=namespace,
    )


async def _asked(request: Request, doors: Doors) -> tuple[Approval, int]:
    """The question behind the link, and its namespace: who holds the link needs no key. Raises: NoApprovalRequest."""
    found = read_link(doors.keyring, request.path_params["token"])
    if found is None:
        raise NoApprovalRequest("This link is not valid.", fix="Open it as it was sent, whole.")
    id_, request_id = found
    owner = (await doors.whose.of([id_])).get(id_)
    if owner is not None:
        asked = await doors.run(approvals.read, bucket_of(id_), id_, request_id, namespace=owner.namespace)
        if asked is not None:
            return asked, owner.namespace
    raise NoApprovalRequest("This question is not kept any more.")


def _form(raw: bytes) -> tuple[Decision, str | None]:
    """The decision and the comment of a form. Raises: Malformed, Invalid."""
    try:
        fields = parse_qs(raw.decode(), max_num_fields=FIELDS_MAX)
    except (UnicodeDecodeError, ValueError):
        raise Malformed("Not a form.", where="body") from None
    decision = decision_of(fields.get("decision", [""])[0])
    if decision is None or decision is Decision.EXPIRED:
        raise Invalid("One of approved, rejected, request_changes.", where="body.decision")
    feedback = spoken(fields.get("feedback", [""])[0]).strip()
    if len(feedback) > FEEDBACK_CHARS_MAX:
        raise Invalid(f"Longer than {FEEDBACK_CHARS_MAX} characters.", where="body.feedback")
    return decision, feedback or None


async def _page(doors: Doors, asked: Approval, namespace: int, *, status: int = 200) -> Response:
    views = await doors.run(executions.read, [asked.execution_id], namespace=namespace)
    view = views.get(asked.execution_id)
    facts = {
        "Asked by": None if view is None else view.target,
        "Execution": show_execution(asked.execution_id),
        "Request": asked.request_id,
        "Asked at": moment(asked.requested_at),
        "Open until": None if asked.expires_at is None else moment(asked.expires_at),
        "Comment": asked.feedback,
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(said)}</dd>" for name, said in facts.items() if said is not None)
    if asked.url is not None and urlsplit(asked.url).scheme in ("http", "https"):
        listed += f'<dt>About</dt><dd><a rel="noreferrer" href="{escape(asked.url)}">{escape(asked.url)}</a></dd>'
    is_open = asked.status is Decision.PENDING
    page = PAGE.format(
        title=escape(asked.title or asked.request_id),
        said="" if is_open else f'<p class="said">{DECIDED[asked.status]}.</p>',
        facts=listed,
        form=FORM.format(chars_max=FEEDBACK_CHARS_MAX) if is_open else "",
    )
    return HTMLResponse(page, status, HEADERS)


ANSWERS = {404: "The link is not valid, or the question is not kept any more.", 503: "Try again."}

OPERATIONS = [
    Operation(
        method="GET",
        scope=OPEN,
        path=PREFIX + "{token}",
        handler=show,
        summary="The page of a question to people; the link is the key",
        tag="approvals",
        answers={200: "HTML."} | ANSWERS,
    ),
    Operation(
        method="POST",
        scope=OPEN,
        path=PREFIX + "{token}",
        handler=decide,
        audit="approval.decided",
        summary="Decide it: a form with decision and feedback",
        tag="approvals",
        answers={
            200: "HTML: it is decided.",
            400: "Not a form.",
            409: "It was decided before, or the execution is being cancelled.",
            413: "Too large.",
            422: "Not valid.",
        }
        | ANSWERS,
    ),
]
