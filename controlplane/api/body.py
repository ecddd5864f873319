"""Reading what came in: bounded, strict, and with payloads kept as the bytes they are.

The envelope is taken apart with msgspec, which leaves a payload untouched (`Raw`); the payload is then checked by
orjson: UTF-8, no NaN, no number beyond a double, no lone surrogates. What passes is stored and comes back as it was.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
import orjson
from starlette.requests import ClientDisconnect, Request

from controlplane.api.fields import fields_of
from controlplane.domain.payload import DEPTH_MAX, shallow
from controlplane.errors import Invalid, Malformed, TooLarge

Form = TypeVar("Form")

PATH = re.compile(r" - at `(.*)`$", re.DOTALL)
UNKNOWN_FIELD = re.compile(r"unknown field `(.*)`", re.DOTALL)
IN_HEADERS = {"session_id": "X-Session-ID", "actor_id": "X-Actor-ID", "run_id": "X-Run-ID"}
"""What is no field of a submit, as its headers say it."""
NO_MOMENT = re.compile(r"Invalid RFC3339 encoded datetime")
UNKNOWN_WORD = re.compile(r"Invalid enum value ")
TEXT_MAX = 200


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body. Raises TooLarge as soon as it is known to be, before the rest has arrived."""
    length = fields_of(request.scope).get(b"content-length", b"")
    if length.isdigit() and int(length) > bytes_max:
        raise _too_large("body", bytes_max)
    chunks: list[bytes] = []  # taken as they come: for one the stream of the framework takes half as long again
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size > bytes_max:
            raise _too_large("body", bytes_max)
        chunks.append(chunk)
    return b"".join(chunks)


async def read_form(request: Request, form: type[Form], bytes_max: int) -> Form:
    """The body as this form; an empty body counts as `{}`."""
    return decode(await read_body(request, bytes_max) or b"{}", form)


def decode(raw: bytes, form: type[Form]) -> Form:
    """These bytes as this form. Raises Malformed when they are not JSON, Invalid when they say something else."""
    try:
        decoded: Form = _decoder(cast("Any", form)).decode(raw)
        return decoded
    except msgspec.ValidationError as error:
        raise _invalid(str(error), form) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"The body is not valid JSON: {_reason(error)}.", where="body") from None


def payload(raw: msgspec.Raw | bytes, *, where: str, bytes_max: int) -> tuple[bytes, object]:
    """A payload as the bytes to keep, and as the value they mean. Raises Malformed, Invalid, TooLarge."""
    kept = bytes(raw)
    if len(kept) > bytes_max:
        raise _too_large(where, bytes_max)
    try:
        value = orjson.loads(kept)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"Not strict JSON: {error.msg}.", where=where) from None
    if not shallow(kept):
        raise Invalid(f"Nested deeper than {DEPTH_MAX} levels.", where=where)
    return kept, value


def clean(text: str, *, where: str, chars_max: int = TEXT_MAX, empty: bool = False) -> str:
    """A text that may be a key, a name or an id made up by somebody else. Raises Invalid."""
    if not text and not empty:
        raise Invalid("May not be empty.", where=where)
    if len(text) > chars_max:
        raise Invalid(f"Longer than {chars_max} characters.", where=where)
    if not text.isprintable():
        raise Invalid("Holds a control character or something else that cannot be printed.", where=where)
    return text


def spoken(text: str) -> str:
    """Words for people, as the database can keep them: without NUL."""
    return text.replace("\x00", "\ufffd")


@cache
def _decoder(form: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(form)


def _invalid(message: str, form: Any) -> Invalid:
    path = PATH.search(message)
    where = "body" if path is None else "body" + path.group(1).removeprefix("$")
    if UNKNOWN_WORD.match(message):  # it would say the word back
        return Invalid("Not one of the words that may stand here.", where=where, fix="GET /openapi.json names them.")
    unknown = UNKNOWN_FIELD.search(message)
    if unknown is None and NO_MOMENT.match(message):
        return Invalid("Not a moment.", where=where, fix="Like this: 2030-01-31T09:00:00+01:00, or with Z for UTC.")
    if unknown is None:
        return Invalid(PATH.sub("", message) + ".", where=where)
    names = [field.encode_name for field in msgspec.structs.fields(form)]
    near = get_close_matches(unknown.group(1)[:TEXT_MAX], names, n=1)
    fix = f"Did you mean `{near[0]}`?" if near else None
    if "input" in names and (header := IN_HEADERS.get(unknown.group(1))):
        fix = f"The header {header} says it."
    return Invalid("There is no such field.", where=where, fix=fix, fields=names)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error).removeprefix("JSON is malformed: ")


def _too_large(where: str, bytes_max: int) -> TooLarge:
    return TooLarge(f"Larger than the limit of {bytes_max} bytes.", where=where, limit_bytes=bytes_max)
