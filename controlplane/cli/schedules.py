"""`controlplane schedules …`: list, show, create, pause, resume, run, delete, next."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from urllib.parse import quote

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, members, text_of
from controlplane.cli.payload import read_input, read_json

PATH = f"{PREFIX}/schedules"
TICKS_SHOWN = 10


class Row(msgspec.Struct):
    """A schedule as one line of a list."""

    name: str
    target: str
    paused: bool
    overlap: str
    waiting: int
    cron: str | None = None
    time_zone: str | None = None
    interval_seconds: float | None = None
    run_at: str | None = None
    next_at: str | None = None
    last_at: str | None = None

    @property
    def when(self) -> str:
        if self.cron is not None:
            return f"{self.cron} {self.time_zone}"
        return f"every {self.interval_seconds:g} s" if self.interval_seconds is not None else f"once {self.run_at}"

    @property
    def state(self) -> str:
        if self.paused:
            return "paused"
        return "active" if self.next_at or self.waiting else "over"


class Listing(msgspec.Struct):
    items: list[Row]
    next_cursor: str | None = None


class Tick(msgspec.Struct):
    planned_at: str
    outcome: str
    by_hand: bool
    until_at: str | None = None
    execution_id: str | None = None


class Ticks(msgspec.Struct):
    items: list[msgspec.Raw]


class Coming(msgspec.Struct):
    next: list[str]


def listing(client: Client, *, target: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Print one page, by name."""
    body = client.get(PATH, {"target": target, "limit": limit, "cursor": cursor})
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No schedules.")
        return
    output.table(
        ("SCHEDULE", "STATE", "TARGET", "WHEN", "OVERLAP", "NEXT", "LAST"),
        (
            (
                one.name,
                one.state,
                one.target,
                one.when,
                one.overlap,
                output.moment(one.next_at),
                output.moment(one.last_at),
            )
            for one in page.items
        ),
    )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def show(client: Client, name: str, *, ticks: bool, as_json: bool) -> None:
    """Print one schedule with what comes next, and what became of its latest ticks."""
    body = client.get(_path(name), about=name)
    more: dict[str, list[msgspec.Raw]] = {}
    if ticks:
        said = client.get(_path(name, "/ticks"), {"limit": TICKS_SHOWN}, about=name)
        more["ticks"] = msgspec.json.decode(said, type=Ticks).items
    if as_json:
        output.data(body if not more else msgspec.json.encode(members(body) | more))
        return
    _summary(body)
    if ticks:
        output.data("\nticks")
        found = [msgspec.json.decode(raw, type=Tick) for raw in more["ticks"]]
        output.table(
            ("PLANNED", "OUTCOME", "EXECUTION", "UNTIL"),
            (
                (output.moment(one.planned_at), _outcome(one), one.execution_id, output.moment(one.until_at))
                for one in found
            ),
        )


def create(
    client: Client,
    name: str,
    asked: Mapping[str, object],
    objects: Mapping[str, str | None],
    *,
    replace: bool,
    as_json: bool,
) -> None:
    """Create it, or with `replace` make it what is said, and print when it comes. `objects`: what is given as JSON."""
    said = {word: value for word, value in asked.items() if value is not None}
    if (given := objects["input"]) is not None:
        said["input"] = orjson.Fragment(read_input(given, []))
    if (given := objects["context"]) is not None:
        said["context"] = orjson.Fragment(read_json(given, "--context"))
    if replace:
        body = client.put(_path(name), orjson.dumps(said), about=name)
    else:
        body = client.post(PATH, orjson.dumps({"name": name} | said), about=name)
    _done(body, name, as_json=as_json)


def turn(client: Client, name: str, verb: str, *, as_json: bool) -> None:
    """Pause or resume it."""
    _done(client.post(_path(name, f"/{verb}"), about=name), name, as_json=as_json)


def run(client: Client, name: str, *, again: str, as_json: bool) -> None:
    """Submit now, and print the id of the execution."""
    body = client.post(_path(name, "/run"), headers={"Idempotency-Key": uuid.uuid4().hex}, about=name)
    if as_json:
        output.data(body)
        return
    id_ = text_of(members(body), "execution_id")
    output.data(str(id_))
    output.say(f"Its end: {again} {id_}")


def delete(client: Client, name: str, *, as_json: bool) -> None:
    """Forget it; what it has submitted goes on."""
    body = client.delete(_path(name), about=name)
    output.data(body if as_json else f"{name} deleted")


def coming(client: Client, name: str, *, count: int, as_json: bool) -> None:
    """Print when it comes next, one moment a line."""
    body = client.get(_path(name, "/next"), {"count": count}, about=name)
    if as_json:
        output.data(body)
        return
    found = msgspec.json.decode(body, type=Coming).next
    for at in found:
        output.data(at)
    if not found:
        output.say("Nothing is planned any more.")


def _path(name: str, more: str = "") -> str:
    return f"{PATH}/{quote(name, safe='')}{more}"


def _done(body: bytes, name: str, *, as_json: bool) -> None:
    if as_json:
        output.data(body)
        return
    row = msgspec.json.decode(body, type=Row)
    output.data(f"{name} {row.state}")
    if row.next_at is not None and not row.paused:
        output.say(f"Next: {output.moment(row.next_at)}")


def _summary(body: bytes) -> None:
    row, found = msgspec.json.decode(body, type=Row), members(body)
    pairs: list[tuple[str, object]] = [("name", row.name), ("state", row.state), ("target", row.target)]
    pairs += [("when", row.when), ("overlap", row.overlap), ("catch_up", text_of(found, "catch_up"))]
    plain = ("jitter_seconds", "waiting", "priority", "retries", "timeout_seconds", "input", "context")
    pairs += [(word, bytes(found[word]).decode()) for word in plain if word in found]
    pairs.append(("last", output.moment(row.last_at)))
    pairs += [("next", output.moment(at)) for at in msgspec.json.decode(body, type=Coming).next]
    output.facts(pairs)


def _outcome(one: Tick) -> str:
    return f"{one.outcome} by hand" if one.by_hand else one.outcome
