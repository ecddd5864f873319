"""What a call sends: the input as the bytes that were given, never through a float."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import orjson

from controlplane.cli.failure import ExitCode, Failure

EXAMPLE = """Like this: --input '{"items": ["a", "b"]}'."""


def read_input(given: str | None, pairs: Sequence[str]) -> bytes:
    """The arguments of the reasoner as a JSON object: `given` as it is, with the pairs put in.

    Raises Failure where something is not JSON, or no object.
    """
    raw = _strict(_given(given)) if given is not None else b"{}"
    if not pairs:
        return raw
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise Failure(f"{pair!r} is not of the form key=value.", code=ExitCode.USAGE)
        members[name] = msgspec.Raw(json_or_text(text))
    return msgspec.json.encode(members)


def read_json(given: str, option: str) -> bytes:
    """What an option gives as JSON, as the bytes it is. Raises Failure, which names the option."""
    raw = _given(given)
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        fix = """Like this: '{"by": "me"}', '"text"' or '3'."""
        raise Failure(f"{option} is not JSON: {error.msg}.", fix=fix, code=ExitCode.USAGE) from None
    return raw.strip()


def json_or_text(text: str) -> bytes:
    """The value of a pair: `3`, `true` and `["a"]` are JSON and stay as they are; what is not JSON is text."""
    raw = _bytes(text)
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError:
        return orjson.dumps(text)
    return raw.strip()


def submit_body(
    input_: bytes,
    *,
    idempotency_key: str,
    webhook_url: str | None = None,
    webhook_secret: str | None = None,
    webhook_headers: Sequence[str] = (),
    webhook_events: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
) -> bytes:
    """The body of a submit, with the input in it byte for byte, and those options that are given."""
    body: dict[str, object] = {"input": orjson.Fragment(input_), "idempotency_key": idempotency_key}
    body |= {name: value for name, value in (options or {}).items() if value is not None}
    if webhook_url is None and (webhook_secret is not None or webhook_headers or webhook_events):
        what = "--webhook-header" if webhook_headers else "--webhook-event"
        what = what if webhook_secret is None else "--webhook-secret"
        raise Failure(f"{what} needs --webhook URL.", code=ExitCode.USAGE)
    if webhook_url is not None:
        webhook: dict[str, object] = {"url": webhook_url}
        webhook |= {} if webhook_secret is None else {"secret": webhook_secret}
        webhook |= {"headers": dict(_header(one) for one in webhook_headers)} if webhook_headers else {}
        webhook |= {"events": list(webhook_events)} if webhook_events else {}
        body["webhook"] = webhook
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:  # bytes of the command line that are no UTF-8
        raise Failure("An option is not UTF-8 text.", code=ExitCode.USAGE) from None


def _header(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise Failure(f"--webhook-header {pair!r} is not of the form name=value.", code=ExitCode.USAGE)
    return name, value


def _given(given: str) -> bytes:
    if given == "-":
        return sys.stdin.buffer.read()
    if not given.startswith("@"):
        return _bytes(given)
    try:
        return Path(given[1:]).read_bytes()
    except OSError as error:
        raise Failure(f"The input file {given[1:]} cannot be read: {error.strerror}.", code=ExitCode.USAGE) from None


def _strict(raw: bytes) -> bytes:
    value = _loads(raw, fix=EXAMPLE)
    if not isinstance(value, dict):
        raise Failure(
            "The input must be an object: the reasoner's arguments by name.", fix=EXAMPLE, code=ExitCode.USAGE
        )
    return raw.strip()


def _loads(raw: bytes, *, fix: str) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Failure(
            f"The input is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            fix=fix,
            code=ExitCode.USAGE,
        ) from None


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Failure("The input is not UTF-8 text.", code=ExitCode.USAGE) from None
