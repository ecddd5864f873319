"""A node as it describes itself, on the wire."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import msgspec

from controlplane.api.body import clean, decode, payload, spoken
from controlplane.api.doors import Doors
from controlplane.api.policy import RetryPolicyForm, policy_of, retries_of
from controlplane.domain.execution import ParentEnd
from controlplane.domain.lease import Transport
from controlplane.domain.limit import CONCURRENCY_MAX, LABEL_MAX
from controlplane.domain.retry import RetryPolicy
from controlplane.domain.target import Target, is_name
from controlplane.errors import Invalid
from controlplane.stages.register import Node, Reasoner

REASONERS_MAX = 1_000
TAGS_MAX = 50
SECONDS_MAX = 10 * 365 * 86_400.0
DESCRIPTION_MAX = 10_000


class Communication(msgspec.Struct):
    """How a node speaks with us: its heartbeats come as often as it says (`2s`)."""

    heartbeat_interval: str | None = None


class ReasonerForm(msgspec.Struct):
    """A function that the node serves, and how often and how soon a failure of it is tried again.

    What `retry` says overrules the four fields above it. The times and `on_parent_end` hold for a submit that says
    nothing else. `concurrency`: how many of it may be under way at once, on all processes together. `concurrency_key`:
    of those that are submitted without one.
    """

    id: str
    description: str | None = None
    tags: list[str] | None = None
    input_schema: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    output_schema: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    retries: int = 0
    retry_delay_seconds: float = 5.0
    retry_factor: float = 2.0
    retry_cap_seconds: float = 300.0
    retry: RetryPolicyForm | None = None
    timeout_seconds: float | None = None
    schedule_to_start_seconds: float | None = None
    total_seconds: float | None = None
    heartbeat_seconds: float | None = None
    on_parent_end: ParentEnd | None = None
    concurrency: int | None = None
    concurrency_key: str | None = None


class RegisterForm(msgspec.Struct):
    """A node. Unknown fields are left alone: AgentField's SDKs send many."""

    id: str
    version: str = "1.0.0"
    transport: Literal["pull", "push"] | None = None
    base_url: str | None = None
    instance_id: str | None = None
    communication_config: Communication | None = None
    reasoners: list[ReasonerForm] = []
    skills: list[ReasonerForm] = []
    metadata: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class Discovered(RegisterForm):
    """What functions that exist only while they are called say of themselves."""

    id: str = ""
    node_id: str = ""


def read_node(raw: bytes, namespace: int, doors: Doors, *, base_url: str) -> Node:
    """What serverless functions answered when they were asked what they are. Raises Malformed, Invalid."""
    form = decode(raw, Discovered)
    form.id = form.node_id or form.id
    return replace(node_of(form, namespace, doors), transport=Transport.SERVERLESS.value, base_url=base_url)


def node_of(form: RegisterForm, namespace: int, doors: Doors) -> Node:
    """The node that this form describes; it is called when it has an address. Raises Invalid."""
    called = form.transport == "push" or (form.transport is None and bool(form.base_url))
    if called and not form.base_url:
        raise Invalid("A node that is called needs an address.", where="body.base_url", fix="Send base_url.")
    _name(form.id, "body.id")
    if len(form.reasoners) + len(form.skills) > REASONERS_MAX:
        raise Invalid(f"More than {REASONERS_MAX} reasoners and skills.", where="body.reasoners")
    limit = doors.limits.payload_bytes_max
    served = [
        _reasoner(one, form.id, "reasoner", f"body.reasoners[{n}]", limit) for n, one in enumerate(form.reasoners)
    ]
    served += [_reasoner(one, form.id, "skill", f"body.skills[{n}]", limit) for n, one in enumerate(form.skills)]
    if len({one.target for one in served}) < len(served):
        raise Invalid("Two reasoners or skills have the same name.", where="body.reasoners")
    return Node(
        namespace=namespace,
        id=form.id,
        transport=Transport.PUSH.value if called else Transport.PULL.value,
        version=clean(form.version, where="body.version"),
        base_url=form.base_url if called else None,
        metadata=_optional(form.metadata, "body.metadata", limit),
        reasoners=served,
    )


def _reasoner(form: ReasonerForm, node_id: str, type_: str, where: str, bytes_max: int) -> Reasoner:
    _name(form.id, f"{where}.id")
    tags = form.tags or []
    if len(tags) > TAGS_MAX:
        raise Invalid(f"More than {TAGS_MAX} tags.", where=f"{where}.tags")
    return Reasoner(
        target=str(Target(node_id, form.id)),
        reasoner_id=form.id,
        type=type_,
        description=None if form.description is None else spoken(form.description[:DESCRIPTION_MAX]),
        tags=tuple(clean(tag, where=f"{where}.tags") for tag in tags),
        input_schema=_optional(form.input_schema, f"{where}.input_schema", bytes_max),
        output_schema=_optional(form.output_schema, f"{where}.output_schema", bytes_max),
        retry=_retry(form, where),
        timeout_seconds=_time(form.timeout_seconds, f"{where}.timeout_seconds"),
        schedule_to_start_seconds=_time(form.schedule_to_start_seconds, f"{where}.schedule_to_start_seconds"),
        total_seconds=_time(form.total_seconds, f"{where}.total_seconds"),
        heartbeat_seconds=_time(form.heartbeat_seconds, f"{where}.heartbeat_seconds"),
        on_parent_end=form.on_parent_end,
        concurrency=_concurrency(form.concurrency, f"{where}.concurrency"),
        concurrency_key=None
        if form.concurrency_key is None
        else clean(form.concurrency_key, where=f"{where}.concurrency_key", chars_max=LABEL_MAX),
    )


def _concurrency(most: int | None, where: str) -> int | None:
    if most is not None and not 0 <= most <= CONCURRENCY_MAX:
        raise Invalid(f"A whole number from 0 to {CONCURRENCY_MAX}.", where=where)
    return most


def _retry(form: ReasonerForm, where: str) -> RetryPolicy:
    policy = RetryPolicy(
        retries_max=retries_of(form.retries, where=f"{where}.retries"),
        delay_seconds=_within(form.retry_delay_seconds, 0, f"{where}.retry_delay_seconds"),
        factor=_within(form.retry_factor, 1, f"{where}.retry_factor"),
        cap_seconds=_within(form.retry_cap_seconds, 0, f"{where}.retry_cap_seconds"),
    )
    return policy if form.retry is None else policy_of(form.retry, policy, where=f"{where}.retry")


def _name(text: str, where: str) -> None:
    if not is_name(text):
        raise Invalid("1 to 128 letters, digits, _ - or :, beginning with a letter, a digit or _.", where=where)


def _within(value: float, least: float, where: str) -> float:
    if not (math.isfinite(value) and least <= value <= SECONDS_MAX):
        raise Invalid(f"A number from {least:g} to {SECONDS_MAX:g}.", where=where)
    return value


def _time(seconds: float | None, where: str) -> float | None:
    return None if seconds is None else _within(seconds, 0.001, where)


def _optional(raw: msgspec.Raw, where: str, bytes_max: int) -> bytes | None:
    return None if bytes(raw) in (b"", b"null") else payload(raw, where=where, bytes_max=bytes_max)[0]
