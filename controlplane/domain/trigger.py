"""Trigger: a door for one outside sender. What it sends, signed, becomes an execution, once.

                verify          seen before?
    request ───────────► event ──────────────► the answer of the first time
                           │ new
                           ├── of a type that is not asked for ──► filtered
                           ├── the trigger is paused ────────────► held
                           ├── no input can be made of it ───────► rejected
                           └── else ─────────────────────────────► submitted, with its execution

Whatever became of it, the event is kept for a while and can be replayed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType
from uuid import UUID

from controlplane.domain.execution import DEFAULT_NAMESPACE
from controlplane.domain.ids import ExecutionId
from controlplane.domain.row import Row
from controlplane.domain.target import is_name
from controlplane.errors import Invalid

TriggerId = NewType("TriggerId", UUID)
TriggerEventId = NewType("TriggerEventId", UUID)

TOLERANCE_SECONDS = 300.0
"""How far the moment that a sender signs may be from now, either way."""
TOLERANCE_MAX_SECONDS = 86_400.0
OVERLAP_SECONDS = 86_400.0
"""How long the secret before goes on to be taken, when nothing else is said."""
OVERLAP_MAX_SECONDS = 7 * 86_400.0
SECRET_CHARS_MAX = 4_096
ARGUMENTS_MAX = 64
POINTER_CHARS_MAX = 500
POINTER_DEPTH_MAX = 32
TYPES_MAX = 100
WORD_CHARS_MAX = 200
"""Of an event's id, of its type, and of a header that is kept."""

SLUG_OF_OTHERS = re.compile(r"([1-9][0-9]{0,4})\.(.+)", re.DOTALL)
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
POINTER = re.compile(r"(/([^~/]|~[01])*)*", re.DOTALL)
PLAIN = re.compile(r"[ -~]{0,100}")
FROM_HEADER = "header:"
# What lets somebody in is not handed on, whoever asks for it.
SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


class Preset(StrEnum):
    """Whose way of signing it is."""

    GITHUB = "github"
    STRIPE = "stripe"
    SLACK = "slack"
    STANDARD = "standard"
    HMAC = "hmac"
    BEARER = "bearer"


class Algorithm(StrEnum):
    SHA256 = "sha256"
    SHA512 = "sha512"
    SHA1 = "sha1"


class Encoding(StrEnum):
    HEX = "hex"
    BASE64 = "base64"


class Outcome(StrEnum):
    """What became of an event when it came (the CHECK of `trigger_events.outcome` holds the same words)."""

    SUBMITTED = "submitted"
    FILTERED = "filtered"
    HELD = "held"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How to know the sender, and where its event says who it is.

    `signed` is what the signature is made over, with `{body}` and perhaps `{timestamp}` and `{id}`. `id_from` and
    `type_from` are each `header:NAME` or a JSON pointer into the body; without an id the body's own hash is one.
    """

    preset: Preset
    header: str = ""
    prefix: str = ""
    algorithm: Algorithm = Algorithm.SHA256
    encoding: Encoding = Encoding.HEX
    signed: str = "{body}"
    timestamp_header: str = ""
    tolerance_seconds: float = TOLERANCE_SECONDS
    id_from: str | None = None
    type_from: str | None = None


# What is said of a scheme beside its preset, in the words of the wire.
PRESETS: Mapping[Preset, Scheme] = {
    Preset.GITHUB: Scheme(
        preset=Preset.GITHUB,
        header="X-Hub-Signature-256",
        prefix="sha256=",
        id_from="header:X-GitHub-Delivery",
        type_from="header:X-GitHub-Event",
    ),
    Preset.STRIPE: Scheme(
        preset=Preset.STRIPE, header="Stripe-Signature", signed="{timestamp}.{body}", id_from="/id", type_from="/type"
    ),
    Preset.SLACK: Scheme(
        preset=Preset.SLACK,
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="X-Slack-Request-Timestamp",
        id_from="/event_id",
        type_from="/event/type",
    ),
    Preset.STANDARD: Scheme(
        preset=Preset.STANDARD,
        header="webhook-signature",
        prefix="v1,",
        encoding=Encoding.BASE64,
        signed="{id}.{timestamp}.{body}",
        timestamp_header="webhook-timestamp",
        id_from="header:webhook-id",
        type_from="/type",
    ),
    Preset.HMAC: Scheme(preset=Preset.HMAC, header="X-Signature"),
    Preset.BEARER: Scheme(preset=Preset.BEARER, header="Authorization", prefix="Bearer "),
}
CONFIGURABLE = frozenset({Preset.HMAC, Preset.BEARER})
PING = "ping"
"""What GitHub sends to see whether somebody is there; it is work only for who asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A trigger as it was asked for.

    `arguments`: the reasoner's argument → where in the event it is found: a JSON pointer ("" is the whole event) or
    `header:NAME`. `event_types`: those that submit; none named are all. `managed_by`: the node whose code declares it.
    """

    target: str
    scheme: Scheme
    arguments: Mapping[str, str] = field(default_factory=lambda: {"event": ""})
    event_types: tuple[str, ...] = ()
    managed_by: str | None = None

    def scheme_text(self) -> str:
        return json.dumps({word: value for word, value in asdict(self.scheme).items() if word != "preset"})

    def wants(self, event_type: str | None) -> bool:
        """Whether an event of this type submits."""
        if not self.event_types:
            return not (self.scheme.preset is Preset.GITHUB and event_type == PING)
        return event_type in self.event_types


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A trigger as it stands. The secrets are sealed (`sealed_for`); the one before counts until `previous_until`."""

    id: TriggerId
    namespace: int
    name: str
    definition: Definition
    secret_sealed: bytes
    previous_sealed: bytes | None
    previous_until: datetime | None
    paused: bool
    paused_reason: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Row) -> Trigger:
        said = json.loads(row["scheme"])
        scheme = Scheme(
            **said
            | {
                "preset": Preset(row["preset"]),
                "algorithm": Algorithm(said["algorithm"]),
                "encoding": Encoding(said["encoding"]),
            }
        )
        return cls(
            id=TriggerId(row["id"]),
            namespace=row["namespace"],
            name=row["name"],
            definition=Definition(
                target=row["target"],
                scheme=scheme,
                arguments=json.loads(row["arguments"]),
                event_types=tuple(row["event_types"]),
                managed_by=row["managed_by"],
            ),
            secret_sealed=row["secret_sealed"],
            previous_sealed=row["previous_sealed"],
            previous_until=row["previous_until"],
            paused=row["paused"],
            paused_reason=row["paused_reason"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """An event whose sender is known. `key`: what says that it is the same event; `headers`: those that are kept."""

    id: TriggerEventId
    key: str
    type: str | None
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of an event. `duplicate`: it had come before, and this is what became of it then.

    `began`: there is work now that a node may take. `blocked`: it has to be let in first.
    """

    id: TriggerEventId
    outcome: Outcome
    execution_id: ExecutionId | None = None
    reason: str | None = None
    duplicate: bool = False
    began: bool = False
    blocked: bool = False


def sealed_for(id_: UUID) -> bytes:
    """What the secrets of a trigger are bound to: moved to another row they do not open."""
    return b"trigger:%b:secret" % id_.bytes


def slug_of(namespace: int, name: str) -> str:
    """What stands behind `/hooks/`: the name, and for any but the first namespace that in front of it."""
    return name if namespace == DEFAULT_NAMESPACE else f"{namespace}.{name}"


def read_slug(slug: str) -> tuple[int, str] | None:
    """The namespace and name that a slug stands for; None when there can be no trigger of it."""
    other = SLUG_OF_OTHERS.fullmatch(slug)
    namespace, name = (DEFAULT_NAMESPACE, slug) if other is None else (int(other[1]), other[2])
    return (namespace, name) if is_name(name) and namespace < 2**15 else None


def header_of(source: str) -> str | None:
    """The header, in lower case, that an argument, an id or a type comes from; None for a pointer."""
    return source.removeprefix(FROM_HEADER).lower() if source.startswith(FROM_HEADER) else None


def check(definition: Definition) -> None:
    """Raises Invalid for what can mean nothing."""
    scheme = definition.scheme
    _check_headers(scheme)
    _check_signed(scheme)
    if not 1 <= scheme.tolerance_seconds <= TOLERANCE_MAX_SECONDS:
        raise Invalid(f"Seconds from 1 to {TOLERANCE_MAX_SECONDS:g}.", where="body.tolerance_seconds")
    for word, source in (("id_from", scheme.id_from), ("type_from", scheme.type_from)):
        if source is not None:
            _check_source(source, f"body.{word}", scheme)
    _check_arguments(definition)
    _check_types(definition)


def _check_headers(scheme: Scheme) -> None:
    if not HEADER_NAME.fullmatch(scheme.header):
        raise Invalid("The name of a header.", where="body.header")
    if scheme.timestamp_header and not HEADER_NAME.fullmatch(scheme.timestamp_header):
        raise Invalid("The name of a header.", where="body.timestamp_header")
    if not PLAIN.fullmatch(scheme.prefix):
        raise Invalid("At most 100 characters of printable ASCII.", where="body.prefix")


def _check_signed(scheme: Scheme) -> None:
    if not PLAIN.fullmatch(scheme.signed) or scheme.signed.count("{body}") != 1:
        raise Invalid(
            "At most 100 characters of printable ASCII, and {body} among them once.",
            where="body.signed",
            fix="As in `{timestamp}.{body}`.",
        )
    if scheme.preset is Preset.HMAC and ("{timestamp}" in scheme.signed) != bool(scheme.timestamp_header):
        raise Invalid(
            "A timestamp that is not signed says nothing, and one that is signed has to come in a header.",
            where="body.signed",
            fix="Name both `timestamp_header` and `{timestamp}`, or neither.",
        )
    if "{id}" in scheme.signed and header_of(scheme.id_from or "") is None:
        raise Invalid(
            "An id that is signed has to come in a header.", where="body.id_from", fix="As in `header:X-Event-ID`."
        )


def _check_arguments(definition: Definition) -> None:
    if len(definition.arguments) > ARGUMENTS_MAX:
        raise Invalid(f"At most {ARGUMENTS_MAX} arguments.", where="body.arguments")
    for name, source in definition.arguments.items():
        if not _is_word(name):
            raise Invalid("The name of an argument.", where="body.arguments")
        _check_source(source, "body.arguments", definition.scheme)


def _check_types(definition: Definition) -> None:
    if len(definition.event_types) > TYPES_MAX:
        raise Invalid(f"At most {TYPES_MAX} types.", where="body.event_types")
    if not all(map(_is_word, definition.event_types)):
        raise Invalid("The type of an event.", where="body.event_types")
    if definition.event_types and definition.scheme.type_from is None:
        raise Invalid(
            "Nothing says of which type an event is.", where="body.type_from", fix="A JSON pointer, or header:NAME."
        )


def _is_word(text: str) -> bool:
    return 0 < len(text) <= WORD_CHARS_MAX and text.isprintable()


def _check_source(source: str, where: str, scheme: Scheme) -> None:
    header = header_of(source)
    if header is not None:
        if not HEADER_NAME.fullmatch(header):
            raise Invalid("After `header:` stands the name of a header.", where=where)
        if header in SECRET_HEADERS or header == scheme.header.lower():
            raise Invalid("This header is a secret and is not handed on.", where=where)
    elif not _is_pointer(source):
        raise Invalid("A JSON pointer (RFC 6901) or header:NAME.", where=where, fix='"" is the whole event.')


def _is_pointer(source: str) -> bool:
    short = len(source) <= POINTER_CHARS_MAX and source.count("/") <= POINTER_DEPTH_MAX
    return short and source.isprintable() and POINTER.fullmatch(source) is not None


def kept_headers(definition: Definition) -> frozenset[str]:
    """The headers of an event that are kept with it, in lower case: those that say something and are no secret."""
    scheme = definition.scheme
    sources = [*definition.arguments.values(), scheme.id_from or "", scheme.type_from or ""]
    named = {name for source in sources if (name := header_of(source)) is not None}
    return frozenset({"content-type", "user-agent"} | named)
