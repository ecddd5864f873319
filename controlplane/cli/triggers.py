"""`controlplane triggers …`: list, show, create, change, pause, resume, delete, test, events, replay."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterable, Mapping
from urllib.parse import quote

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, members, text_of
from controlplane.cli.failure import ExitCode, Failure
from controlplane.cli.payload import read_input

PATH = f"{PREFIX}/triggers"


class Row(msgspec.Struct):
    """A trigger as one line of a list."""

    name: str
    target: str
    preset: str
    url: str
    paused: bool
    event_types: list[str]
    managed_by: str | None = None

    @property
    def state(self) -> str:
        return "paused" if self.paused else "active"


class Listing(msgspec.Struct):
    items: list[Row]
    next_cursor: str | None = None


class Event(msgspec.Struct):
    trigger_event_id: str
    outcome: str
    at: str
    replays: int
    type: str | None = None
    reason: str | None = None
    execution_id: str | None = None


class Events(msgspec.Struct):
    items: list[Event]
    next_cursor: str | None = None


class Sample(msgspec.Struct):
    curl: str


def listing(
    client: Client, *, target: str | None, managed_by: str | None, limit: int, cursor: str | None, as_json: bool
) -> None:
    """Print one page, by name."""
    body = client.get(PATH, {"target": target, "managed_by": managed_by, "limit": limit, "cursor": cursor})
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No triggers.")
        return
    output.table(
        ("TRIGGER", "STATE", "PRESET", "TARGET", "EVENTS", "URL"),
        (
            (one.name, one.state, one.preset, one.target, ",".join(one.event_types) or "all", one.url)
            for one in page.items
        ),
    )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def show(client: Client, name: str, *, as_json: bool) -> None:
    """Print one trigger, without its secret."""
    body = client.get(_path(name), about=name)
    if as_json:
        output.data(body)
        return
    output.facts([(word, _plain(value)) for word, value in members(body).items()])


def create(
    client: Client,
    name: str,
    asked: Mapping[str, object],
    *,
    arguments: Iterable[str],
    secret_env: str | None,
    as_json: bool,
) -> None:
    """Create it, and print where its sender has to send."""
    said = {word: value for word, value in asked.items() if value is not None}
    said |= {"name": name, "secret": _secret(secret_env)} | _arguments(arguments)
    body = client.post(PATH, orjson.dumps(said), about=name)
    if as_json:
        output.data(body)
        return
    output.data(msgspec.json.decode(body, type=Row).url)


def change(
    client: Client,
    name: str,
    asked: Mapping[str, object],
    *,
    arguments: Iterable[str],
    secret: bool,
    secret_env: str | None,
    as_json: bool,
) -> None:
    """Change what is named."""
    said = {word: value for word, value in asked.items() if value is not None} | _arguments(arguments)
    if secret or secret_env is not None:
        said["secret"] = _secret(secret_env)
    _done(client.patch(_path(name), orjson.dumps(said), about=name), name, as_json=as_json)


def turn(client: Client, name: str, verb: str, *, reason: str | None = None, as_json: bool) -> None:
    """Pause or resume it."""
    said = b"{}" if reason is None else orjson.dumps({"reason": reason})
    _done(client.post(_path(name, f"/{verb}"), said, about=name), name, as_json=as_json)


def delete(client: Client, name: str, *, as_json: bool) -> None:
    """Close the door; what has come in goes on."""
    body = client.delete(_path(name), about=name)
    output.data(body if as_json else f"{name} deleted")


def sample(client: Client, name: str, *, body_given: str | None, event_type: str | None, as_json: bool) -> None:
    """Print a signed sample request, as a line for curl."""
    said: dict[str, object] = {} if event_type is None else {"event_type": event_type}
    if body_given is not None:
        said["body"] = orjson.Fragment(read_input(body_given, []))
    body = client.post(_path(name, "/test"), orjson.dumps(said), about=name)
    output.data(body if as_json else msgspec.json.decode(body, type=Sample).curl)


def events(client: Client, name: str, *, outcome: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Print what came in, the newest first."""
    body = client.get(_path(name, "/events"), {"outcome": outcome, "limit": limit, "cursor": cursor}, about=name)
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Events)
    if not page.items:
        output.say("Nothing came in.")
        return
    output.table(
        ("EVENT", "AT", "TYPE", "OUTCOME", "EXECUTION", "REPLAYS", "REASON"),
        (
            (
                one.trigger_event_id,
                output.moment(one.at),
                one.type,
                one.outcome,
                one.execution_id,
                one.replays,
                one.reason,
            )
            for one in page.items
        ),
    )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def event(client: Client, name: str, trigger_event_id: str) -> None:
    """Print one event with its body, as JSON."""
    output.data(client.get(_path(name, f"/events/{quote(trigger_event_id, safe='')}"), about=trigger_event_id))


def replay(client: Client, name: str, trigger_event_id: str, *, again: str, as_json: bool) -> None:
    """Submit it once more, and print the id of the execution."""
    path = _path(name, f"/events/{quote(trigger_event_id, safe='')}/replay")
    body = client.post(path, headers={"Idempotency-Key": uuid.uuid4().hex}, about=trigger_event_id)
    if as_json:
        output.data(body)
        return
    id_ = text_of(members(body), "execution_id")
    output.data(str(id_))
    output.say(f"Its end: {again} {id_}")


def _path(name: str, more: str = "") -> str:
    return f"{PATH}/{quote(name, safe='')}{more}"


def _done(body: bytes, name: str, *, as_json: bool) -> None:
    output.data(body if as_json else f"{name} {msgspec.json.decode(body, type=Row).state}")


def _plain(value: msgspec.Raw) -> str:
    said = msgspec.json.decode(value)
    return said if isinstance(said, str) else bytes(value).decode()


def _arguments(pairs: Iterable[str]) -> dict[str, object]:
    """`name=/pointer` or `name=header:NAME`, each."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, mark, source = pair.partition("=")
        if not mark:
            raise Failure(
                f"{pair}: an argument is NAME=SOURCE.",
                fix="As in --argument ref=/ref, or event= for all.",
                code=ExitCode.USAGE,
            )
        found[name] = source
    return {"arguments": found} if found else {}


def _secret(env: str | None) -> str:
    """From the environment or from stdin: on a command line it would be seen by every process."""
    secret = os.environ.get(env, "") if env is not None else sys.stdin.readline().rstrip("\r\n")
    if not secret:
        where = f"The environment variable {env} is not set." if env is not None else "No secret came on stdin."
        raise Failure(
            where, fix="Name a variable that holds it with --secret-env, or send it to stdin.", code=ExitCode.USAGE
        )
    return secret
