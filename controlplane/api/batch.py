"""Batch: many submits in one request. Each is answered by itself, and one that is refused fails none of its neighbours.

An idempotency key of the request is kept for its whole body, and with it the run that its executions share; each
execution has a key made from it. So a request whose answer was lost may be sent again: what it had accepted is answered
as before, and the rest is accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import shapes
from controlplane.api.body import decode, read_body
from controlplane.api.doors import Doors, doors_of, namespace_of
from controlplane.api.executions import (
    EMPTY,
    SUBMIT_HEADERS,
    Caller,
    Keyed,
    SubmitForm,
    bucket_for,
    caller_of,
    lane_of,
    no_node,
    shape_of,
    submission_of,
)
from controlplane.api.operation import EXECUTE, Operation
from controlplane.api.problems import body_of, status_of
from controlplane.api.replay import replay_of
from controlplane.api.shapes import answer
from controlplane.domain import target as targets
from controlplane.domain.execution import Accepted, Replay, Submission
from controlplane.domain.ids import show
from controlplane.errors import ControlPlaneError, Invalid, Unavailable, bare
from controlplane.postgres.lane import Lane
from controlplane.reads.nodes import Entry
from controlplane.stages import submit

ITEMS_MAX = 1_000
"""Executions that one request may ask for."""
APART = "\x1f"
"""Stands in what is put together from words of a caller, none of which can hold it."""
MEMBER_OF = {"path": "target", "Idempotency-Key": "idempotency_key"}

Warnings = list[dict[str, str]]


class BatchItem(SubmitForm, forbid_unknown_fields=True, kw_only=True):
    """A submit, with its `target`."""

    target: str


class BatchForm(msgspec.Struct, forbid_unknown_fields=True):
    """Up to 1,000 submits. `same_run`: they share a new run, unless the headers name one for all of them."""

    items: list[BatchItem]
    same_run: bool = False
    idempotency_key: str | None = None


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """A BatchForm before anybody has looked at its items: what is wrong with one is said of that one."""

    items: list[msgspec.Raw]
    same_run: bool = False
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What all items of a request have in common. `repeated`: it was sent before, and its answer may have been lost."""

    caller: Caller
    keyed: Keyed | None
    repeated: bool


@dataclass(frozen=True, slots=True)
class Wish:
    """An item that can be put to the lane."""

    submission: Submission
    entry: Entry


async def submit_batch(request: Request) -> Response:
    """Accept up to 1,000 at once and answer each of them, in order: accepted, or why not."""
    doors, namespace = doors_of(request), namespace_of(request)
    raw = await read_body(request, doors.limits.body_bytes_max)
    form = decode(raw or EMPTY, Envelope)
    if not 1 <= len(form.items) <= ITEMS_MAX:
        raise Invalid(f"From 1 to {ITEMS_MAX} items.", where="body.items", fix="Send several batches.")
    batch = await _batch(request, doors, namespace, form, raw)
    items = [_item(one) for one in form.items]
    wishes, warnings = await _wishes(request, doors, batch, items, form.items)
    answers = await _put(doors, wishes)
    for one in answers:
        if batch.keyed is not None and isinstance(one, Unavailable):
            raise one  # it may be sent again as a whole, which answers more than a part of it now
    doors.ended([one.id for one in answers if isinstance(one, Accepted) and one.source_id is not None])
    shape = {
        "run_id": batch.caller.run_id,
        "counts": _counts(answers),
        "items": [_shape(n, wish, said) for n, (wish, said) in enumerate(zip(wishes, answers, strict=True))],
        "warnings": [*batch.caller.warnings, *warnings] or None,
    }
    return answer(shapes.present(shape), 200, {"Idempotent-Replayed": "true"} if batch.repeated else {})


async def _batch(request: Request, doors: Doors, namespace: int, form: Envelope, raw: bytes) -> Batch:
    """Raises IdempotencyConflict when the request's key was used with another body."""
    caller = await caller_of(request, doors, namespace)
    key = request.headers.get("idempotency-key", form.idempotency_key)
    keyed = None if key is None else Keyed.of(key, f"batch{APART}{caller.run_id or ''}", raw)
    own = shared = doors.ids.new(bucket_for(doors, caller, keyed))
    if keyed is not None:
        shared = await doors.run(submit.reserve, own, namespace=namespace, **keyed._asdict())
    if form.same_run and caller.run_id is None:
        caller = replace(caller, run_id=show("run", shared))
    return Batch(caller=caller, keyed=keyed, repeated=shared != own)


def _item(raw: msgspec.Raw) -> BatchItem | ControlPlaneError:
    try:
        return decode(bytes(raw), BatchItem)
    except ControlPlaneError as error:
        return bare(error)


async def _find(doors: Doors, namespace: int, wanted: set[str]) -> dict[str, Entry | ControlPlaneError]:
    """What each target is, or why it is none: asked once, however many items name it."""
    found: dict[str, Entry | ControlPlaneError] = {}
    for target in wanted:
        try:
            targets.parse(target)
        except ControlPlaneError as error:
            found[target] = bare(error)
    return {**await doors.catalogue.find_each(namespace, wanted - found.keys()), **found}


async def _wishes(
    request: Request,
    doors: Doors,
    batch: Batch,
    items: Sequence[BatchItem | ControlPlaneError],
    raw: Sequence[msgspec.Raw],
) -> tuple[list[Wish | ControlPlaneError], Warnings]:
    """What can be put to the lane, and what is refused before it; with warnings, each of them once."""
    caller = batch.caller
    entries = await _find(doors, caller.namespace, {one.target for one in items if isinstance(one, BatchItem)})
    replays: dict[int, tuple[Replay | None, Warnings]] = {}
    wishes: list[Wish | ControlPlaneError] = []
    for n, item in enumerate(items):
        try:
            if isinstance(item, ControlPlaneError):
                raise item
            entry = entries[item.target]
            if isinstance(entry, ControlPlaneError):
                raise entry
            keyed = _keyed(batch, n, item, raw[n])
            bucket = bucket_for(doors, caller, keyed)
            if bucket not in replays:
                replays[bucket] = await replay_of(
                    request, doors, caller.namespace, bucket, caller.run_id, caller.parent
                )
            replay, _ = replays[bucket]
            wishes.append(
                Wish(submission_of(doors, caller, entry, item, bucket=bucket, keyed=keyed, replay=replay), entry)
            )
        except Unavailable:
            raise
        except ControlPlaneError as error:
            wishes.append(bare(error))
    ignored = [one for _, found in replays.values() for one in found]
    served = {one.entry.target: one.entry for one in wishes if isinstance(one, Wish)}
    return wishes, [*ignored[:1], *(one for entry in served.values() for one in no_node(entry))]


def _keyed(batch: Batch, n: int, item: BatchItem, raw: msgspec.Raw) -> Keyed | None:
    """The item's own key, or one that is made from the request's; a step needs none."""
    if item.idempotency_key is not None:
        return Keyed.of(item.idempotency_key, batch.caller.run_id or "", bytes(raw))
    if batch.keyed is None or item.step is not None:
        return None
    return batch.keyed._replace(key=f"{batch.keyed.key}{APART}{n}")


async def _put(doors: Doors, wishes: Sequence[Wish | ControlPlaneError]) -> list[Accepted | ControlPlaneError]:
    """What each is answered: by its lane, of which there are two, unless it was refused before."""
    lanes: dict[Lane[Submission, Accepted], list[Submission]] = {}
    for one in wishes:
        if isinstance(one, Wish):
            lanes.setdefault(lane_of(doors, one.submission), []).append(one.submission)
    said = await asyncio.gather(*(lane.put_each(items) for lane, items in lanes.items()))
    answers = {lane: iter(found) for lane, found in zip(lanes, said, strict=True)}
    return [next(answers[lane_of(doors, one.submission)]) if isinstance(one, Wish) else one for one in wishes]


def _counts(answers: Sequence[Accepted | ControlPlaneError]) -> dict[str, int]:
    accepted = [one for one in answers if isinstance(one, Accepted)]
    return {
        "items": len(answers),
        "accepted": len(accepted),
        "replayed": sum(one.replayed for one in accepted),
        "refused": len(answers) - len(accepted),
    }


def _shape(n: int, wish: Wish | ControlPlaneError, said: Accepted | ControlPlaneError) -> shapes.Shape:
    if isinstance(said, Accepted):
        assert isinstance(wish, Wish)
        shape = {"http_status": 202, **shape_of(wish.submission, said)}
        if said.replayed:
            shape["replayed"] = True
        return shape
    return {"http_status": status_of(said)} | body_of(said) | {"where": _where(n, said.where)}


def _where(n: int, where: str | None) -> str:
    """What a submit by itself calls its body or its path is a part of an item here."""
    item = f"body.items[{n}]"
    if where is None or where.startswith("body"):
        return item + (where or "").removeprefix("body")
    return f"{item}.{MEMBER_OF[where]}" if where in MEMBER_OF else where


OPERATIONS = [
    Operation(
        scope=EXECUTE,
        method="POST",
        path="/api/v1/execute/batch",
        handler=submit_batch,
        summary="Submit up to 1,000 executions and return at once",
        tag="executions",
        takes=BatchForm,
        headers=SUBMIT_HEADERS
        | {"Idempotency-Key": "The same key and body again answer with the same executions, for 24 hours."},
        answers={
            200: "Each item's answer, in order: with http_status 202 and as a submit answers, or as a problem.",
            400: "The body is malformed.",
            404: "There is no such parent execution.",
            413: "Larger than the limit, which is named.",
            422: "Not from 1 to 1,000 items, or the key was used with another body; nothing was accepted.",
            503: "The database is out of reach; try again. With an idempotency key that is always safe.",
        },
    ),
]
