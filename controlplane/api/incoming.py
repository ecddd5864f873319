"""What an outside sender's event says, taken apart without changing a byte of what is handed on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from urllib.parse import parse_qs

import msgspec
import orjson
from starlette.requests import Request

from controlplane.api.body import payload
from controlplane.domain.trigger import WORD_CHARS_MAX, Definition, Preset, header_of, kept_headers
from controlplane.errors import ControlPlaneError, Invalid
from controlplane.security.incoming import Headers, aliased, only

FORM_TYPE = "application/x-www-form-urlencoded"
FORM_FIELDS_MAX = 1_000
FORM_JSON = "payload"
"""The field in which GitHub and Slack put their JSON when they send a form."""
INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def headers_of(request: Request) -> dict[str, list[str]]:
    """Every value of each header, by its name in lower case."""
    found: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        found.setdefault(name, []).append(value)
    return found


def kept(definition: Definition, headers: Headers) -> dict[str, str]:
    """The headers that are kept with the event: none that is a secret."""
    said = aliased(definition.scheme, headers)
    wanted = {name: only(said, name) for name in sorted(kept_headers(definition))}
    return {name: value[:WORD_CHARS_MAX] for name, value in wanted.items() if value is not None}


def event_of(body: bytes, content_type: str) -> bytes:
    """The event as JSON; of a form its fields, or the JSON in its one field `payload`. Raises Malformed, Invalid."""
    if content_type.partition(";")[0].strip().lower() == FORM_TYPE:
        return _of_form(body)
    return payload(body, where="body", bytes_max=len(body))[0]


def pick(event: bytes, pointer: str) -> bytes | None:
    """What a JSON pointer (RFC 6901) finds, byte for byte; None when there is nothing there."""
    found = event
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        start = found.lstrip(b" \t\r\n")[:1]
        if start == b"{":
            members = msgspec.json.decode(found, type=dict[str, msgspec.Raw])
            if name not in members:
                return None
            found = bytes(members[name])
        elif start == b"[" and INDEX.fullmatch(name):
            items = msgspec.json.decode(found, type=list[msgspec.Raw])
            if int(name) >= len(items):
                return None
            found = bytes(items[int(name)])
        else:
            return None
    return found


def word(source: str | None, event: bytes | None, headers: Mapping[str, str]) -> str | None:
    """A short text or number that the event says there; None when it says none that can be kept."""
    if source is None:
        return None
    name = header_of(source)
    if name is not None:
        said: object = headers.get(name)
    else:
        raw = None if event is None else pick(event, source)
        said = None if raw is None else orjson.loads(raw)
    if isinstance(said, int) and not isinstance(said, bool):
        said = str(said)
    if not isinstance(said, str) or not 0 < len(said) <= WORD_CHARS_MAX or not said.isprintable():
        return None
    return said


def key_of(definition: Definition, body: bytes, event: bytes | None, headers: Headers) -> str:
    """By what the event is known when it is sent again: its id, else the hash of its bytes."""
    said = word(definition.scheme.id_from, event, kept(definition, headers))
    return said or f"sha256:{hashlib.sha256(body).hexdigest()}"


def type_of(definition: Definition, event: bytes | None, headers: Headers) -> str | None:
    said = kept(definition, headers)
    found = word(definition.scheme.type_from, event, said)
    if found is None and definition.scheme.preset is Preset.SLACK:  # what is no event of the Events API
        return word("/type", event, said)
    return found


def input_of(definition: Definition, event: bytes, headers: Mapping[str, str], *, bytes_max: int) -> bytes:
    """The reasoner's arguments; what the event does not have is left out. Raises Invalid when they are too large."""
    arguments: dict[str, object] = {}
    for name, source in definition.arguments.items():
        header = header_of(source)
        raw = None if header is not None else pick(event, source)
        said = headers.get(header) if header is not None else raw and orjson.Fragment(raw)
        if said is not None:
            arguments[name] = said
    made = orjson.dumps(arguments)
    if len(made) > bytes_max:
        raise Invalid(f"The input is larger than the limit of {bytes_max} bytes.", where="body")
    return made


def read(body: bytes, headers: Headers) -> tuple[bytes | None, str | None]:
    """The event, or why it is none that can be read."""
    try:
        return event_of(body, only(headers, "content-type") or ""), None
    except ControlPlaneError as error:
        return None, error.detail


def _of_form(body: bytes) -> bytes:
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX, errors="strict")
    except ValueError:  # UnicodeDecodeError is one
        raise Invalid("Not a form.", where="body") from None
    if list(fields) == [FORM_JSON] and len(fields[FORM_JSON]) == 1:
        raw = fields[FORM_JSON][0].encode()
        return payload(raw, where="body", bytes_max=len(raw))[0]
    plain = {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
    made = orjson.dumps(plain)
    return payload(made, where="body", bytes_max=len(made))[0]
