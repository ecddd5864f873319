"""`controlplane endpoints …`: list, show, create, update, enable, disable, rotate, test, delete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from urllib.parse import quote

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, members
from controlplane.cli.failure import ExitCode, Failure
from controlplane.security.signature import new_secret

PATH = f"{PREFIX}/endpoints"


class Row(msgspec.Struct):
    """An endpoint as one line of a list."""

    name: str
    endpoint_id: str
    url: str
    state: str
    events: list[str]
    targets: list[str] = []
    disabled_by: str | None = None
    disabled_reason: str | None = None
    failing_since: str | None = None

    @property
    def remark(self) -> str | None:
        if self.state == "disabled":
            return " ".join(word for word in (f"by {self.disabled_by}", self.disabled_reason) if word)
        return None if self.failing_since is None else f"failing since {output.moment(self.failing_since)}"


class Listing(msgspec.Struct):
    items: list[Row]
    next_cursor: str | None = None


class Test(msgspec.Struct):
    delivered: bool
    request: dict[str, msgspec.Raw]
    response: dict[str, msgspec.Raw]


def listing(client: Client, *, state: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Print one page, by name."""
    body = client.get(PATH, {"state": state, "limit": limit, "cursor": cursor})
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No endpoints.")
        return
    output.table(
        ("ENDPOINT", "STATE", "EVENTS", "TARGETS", "URL", "REMARK"),
        (
            (one.name, one.state, ",".join(one.events), ",".join(one.targets) or "all", one.url, one.remark)
            for one in page.items
        ),
    )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def show(client: Client, endpoint: str, *, as_json: bool) -> None:
    """Print one endpoint, without its secret."""
    body = client.get(_path(endpoint), about=endpoint)
    if as_json:
        output.data(body)
        return
    output.facts([(word, _plain(value)) for word, value in members(body).items()])


def create(
    client: Client,
    name: str,
    asked: Mapping[str, object],
    *,
    headers: Iterable[str],
    secret_env: str | None,
    as_json: bool,
) -> None:
    """Create it, and print the secret that its receiver verifies with, if it was not given."""
    secret = _secret(secret_env)
    said = _said(asked) | {"name": name, "secret": secret} | _headers(headers)
    body = client.post(PATH, orjson.dumps(said), about=name)
    _shown(body, secret, name, given=secret_env is not None, as_json=as_json)


def update(
    client: Client, endpoint: str, asked: Mapping[str, object], *, headers: Iterable[str], as_json: bool
) -> None:
    """Change what is named."""
    said = _said(asked) | _headers(headers)
    _done(client.patch(_path(endpoint), orjson.dumps(said), about=endpoint), as_json=as_json)


def turn(client: Client, endpoint: str, verb: str, *, reason: str | None = None, as_json: bool) -> None:
    """Enable or disable it."""
    said = b"{}" if reason is None else orjson.dumps({"reason": reason})
    _done(client.post(_path(endpoint, f"/{verb}"), said, about=endpoint), as_json=as_json)


def rotate(
    client: Client, endpoint: str, *, secret_env: str | None, overlap_seconds: float | None, as_json: bool
) -> None:
    """Another secret signs; print it, if it was not given."""
    secret = _secret(secret_env)
    said = _said({"secret": secret, "overlap_seconds": overlap_seconds})
    body = client.post(_path(endpoint, "/rotate"), orjson.dumps(said), about=endpoint)
    _shown(body, secret, endpoint, given=secret_env is not None, as_json=as_json)


def test(client: Client, endpoint: str, *, as_json: bool) -> None:
    """Print what was sent and what came back; fails where it was not taken."""
    body = client.post(_path(endpoint, "/test"), b"{}", about=endpoint)
    said = msgspec.json.decode(body, type=Test)
    if as_json:
        output.data(body)
    else:
        output.facts([*_facts("sent ", said.request), *_facts("", said.response)])
    if not said.delivered:
        raise Failure(
            "The receiver did not take it.",
            fix="It has to answer with a status from 200 to 299.",
            code=ExitCode.INTERNAL,
        )


def delete(client: Client, endpoint: str, *, as_json: bool) -> None:
    """It is told nothing any more."""
    body = client.delete(_path(endpoint), about=endpoint)
    output.data(body if as_json else f"{endpoint} deleted")


def _path(endpoint: str, more: str = "") -> str:
    return f"{PATH}/{quote(endpoint, safe='')}{more}"


def _said(asked: Mapping[str, object]) -> dict[str, object]:
    return {word: value for word, value in asked.items() if value is not None}


def _done(body: bytes, *, as_json: bool) -> None:
    one = msgspec.json.decode(body, type=Row)
    output.data(body if as_json else f"{one.name} {one.state}")


def _shown(body: bytes, secret: str, name: str, *, given: bool, as_json: bool) -> None:
    if as_json:
        output.data(body if given else orjson.dumps(orjson.loads(body) | {"secret": secret}))
        return
    if given:
        output.data(name)
        return
    output.data(secret)
    output.say("This is what its receiver verifies with. It is not shown again.")


def _facts(before: str, said: Mapping[str, msgspec.Raw]) -> list[tuple[str, str]]:
    return [(f"{before}{word}", _plain(value)) for word, value in said.items()]


def _plain(value: msgspec.Raw) -> str:
    said = msgspec.json.decode(value)
    return said if isinstance(said, str) else bytes(value).decode()


def _headers(pairs: Iterable[str]) -> dict[str, object]:
    """`name=value`, each."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, mark, value = pair.partition("=")
        if not mark or not name:
            raise Failure(f"--header {pair!r} is not of the form name=value.", code=ExitCode.USAGE)
        found[name] = value
    return {"headers": found} if found else {}


def _secret(env: str | None) -> str:
    """From the environment, else a new one. It is made here, so that a lost answer can be asked for again."""
    if env is None:
        return new_secret()
    secret = os.environ.get(env, "")
    if not secret:
        raise Failure(f"The environment variable {env} is not set.", code=ExitCode.USAGE)
    return secret
