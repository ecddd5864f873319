"""The words in which the contract of a route is said: what it answers, and what may stand where in what it takes.

The forms of bodies stand beside their handlers, which decode into them. What a form cannot say by its types (bounds,
patterns, which fields go together) and what is answered is said here, one module for each part of the API, and drawn
from the same constants that the validators use. `openapi.py` makes the document of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from msgspec import Meta, Struct, UnsetType

from controlplane.api.operation import Handler
from controlplane.domain.ids import ATTEMPT, TAIL
from controlplane.domain.target import NAME

T = TypeVar("T")

Schema = dict[str, Any]
Maybe: TypeAlias = T | UnsetType
"""A member that is left out where there is nothing to say."""


def whole(pattern: re.Pattern[str] | str) -> str:
    """A pattern of ours, which has to match all of a text, as JSON Schema reads one: anywhere in it."""
    return f"^{pattern if isinstance(pattern, str) else pattern.pattern}$"


def id_pattern(prefix: str) -> str:
    return whole(f"{prefix}_{TAIL.pattern}")


def or_nothing(pattern: str) -> str:
    """The same, where an empty text is as good as none: a parameter of a query that says nothing."""
    return f"^({pattern.removeprefix('^').removesuffix('$')})?$"


NAME_PATTERN = whole(NAME)
TARGET_PATTERN = whole(rf"{NAME.pattern}\.{NAME.pattern}")
EXECUTION_PATTERN = id_pattern("exec")
FENCED_PATTERN = whole(f"exec_{TAIL.pattern}(~{ATTEMPT.pattern})?")
PRINTABLE = r"^[\p{L}\p{M}\p{N}\p{P}\p{S} ]*$"
"""Of texts that may hold nothing but what can be printed (`str.isprintable`)."""
DAY = r"20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
ZONE = r"(Z|[+-]0[0-9]:[0-5][0-9])"
MOMENT_PATTERN = whole(f"{DAY}T{TIME}{ZONE}")
LOCAL_MOMENT = f"{DAY}T{TIME}{ZONE}?"

Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Target = Annotated[str, Meta(pattern=TARGET_PATTERN)]
ExecutionText = Annotated[str, Meta(pattern=EXECUTION_PATTERN)]
SessionText = Annotated[str, Meta(pattern=id_pattern("ses"))]
Count = Annotated[int, Meta(ge=0)]
Attempt = Annotated[int, Meta(ge=0, description="Attempts begun; 0 before the first.")]
Seconds = Annotated[float, Meta(ge=0)]
Milliseconds = Annotated[int, Meta(ge=0)]
HttpStatus = Annotated[int, Meta(ge=100, le=599)]


def text(least: int = 0, most: int | None = None, pattern: str | None = None, **more: Any) -> Schema:
    """A text of so many characters."""
    schema: Schema = {"type": "string", "minLength": least, "maxLength": most, "pattern": pattern} | more
    return {word: value for word, value in schema.items() if value not in (None, 0)}


def integer(least: int, most: int, **more: Any) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most} | more


def one_of(known: Sequence[str], **more: Any) -> Schema:
    return {"type": "string", "enum": [str(word) for word in known]} | more


def words(known: Iterable[str]) -> str:
    """The pattern of any of these, in letters of any size and with space around."""
    either = ("".join(f"[{one}{one.upper()}]" if one.isalpha() else one for one in word) for word in sorted(known))
    return rf"^\s*({'|'.join(either)})\s*$"


def listed(known: Sequence[str]) -> Schema:
    """A parameter that may be said several times."""
    return {"type": "array", "items": one_of(known)}


def refer(of: type) -> Schema:
    """What has a schema of its own among the components."""
    return {"$ref": f"#/components/schemas/{of.__name__}"}


SAID_MOMENT: Schema = {"type": "string", "pattern": or_nothing(MOMENT_PATTERN), "examples": ["2030-01-31T09:00:00Z"]}
"""In a query."""
URL_PATTERN = r"^[hH][tT][tT][pP][sS]?://[^\s\\]+$"
MOMENT = text(format="date-time", pattern=MOMENT_PATTERN, examples=["2030-01-31T09:00:00Z"])


class Hidden(Struct):
    """What stands in place of an object for a key that hides payloads: that it is there, how large, and its hash."""

    hidden: Literal[True]
    bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


def or_hidden(schema: Schema) -> Meta:
    """Of a member that may be hidden, and that is no payload of any shape by itself."""
    return Meta(extra_json_schema={"anyOf": [schema, refer(Hidden)]})


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """An answer that is not JSON."""

    type: str
    schema: Schema = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True, slots=True)
class ByName:
    """An object whose members, whatever they are called, are each of one of these types."""

    types: tuple[type, ...]


Body = Any  # a type that msgspec can describe, a Media, a ByName, a tuple of them, or None for an answer without a body


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What can be asked with an answer: `parameters` and `body` say which of its members stand where.

    `to` is the path of the other operation, `by` its method.
    """

    to: str
    by: str = "GET"
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a handler promises. `answers`: status → the type of its body, where that is no problem.

    `parameters`: name in the path, the query or the headers → its schema, where it is not what its name always means.
    `headers`: status → headers of the answer. `links`: status → name → link. `body`: of a body that no form describes.
    `required`: headers without which nothing can be done. `any_refusal`: a node may answer any 4xx.
    """

    answers: Mapping[int, Body] = field(default_factory=dict)
    parameters: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[int, Sequence[str]] = field(default_factory=dict)
    links: Mapping[int, Mapping[str, Link]] = field(default_factory=dict)
    body: Mapping[str, Schema] | None = None
    required: Sequence[str] = ()
    any_refusal: bool = False


Contract = Mapping[Handler, Said]
Rules = Mapping[type, Mapping[str, Schema]]
"""Form → field → what its type leaves open; under the empty name what is true of the whole form."""
