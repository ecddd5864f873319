"""`controlplane keys …`: make, list, rotate and revoke API keys. `controlplane namespaces …`: make and list them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec
import orjson

from controlplane.cli import output
from controlplane.cli.client import PREFIX, Client, members, text_of
from controlplane.cli.failure import ExitCode, Failure

PATH = f"{PREFIX}/keys"
TICKETS_PATH = f"{PREFIX}/tickets"
NAMESPACES_PATH = f"{PREFIX}/namespaces"
UNLIMITED = "unlimited"
SHOWN_ONCE = "Keep it now: it is not shown again. Programs take it from CONTROLPLANE_API_KEY."


class Row(msgspec.Struct):
    """A key as one line of a list."""

    key_id: str
    name: str
    scopes: list[str]
    state: str
    node_ids: list[str] = []
    hide_payloads: bool = False
    expires_at: str | None = None
    last_used_at: str | None = None


class Listing(msgspec.Struct):
    items: list[Row]
    next_cursor: str | None = None


class NamespaceRow(msgspec.Struct):
    name: str
    created_at: str


class CapRow(msgspec.Struct):
    cap: str
    most: int | None
    said: bool
    present: int | None


class CapListing(msgspec.Struct):
    caps: list[CapRow]


class NamespaceListing(msgspec.Struct):
    items: list[NamespaceRow]
    next_cursor: str | None = None


def create(client: Client, asked: Mapping[str, object], *, as_json: bool) -> None:
    """Make a key and print it, this once."""
    said = {word: value for word, value in asked.items() if value is not None}
    show_new(client.post(PATH, orjson.dumps(said)), as_json=as_json)


def listing(client: Client, *, namespace: str | None, limit: int, cursor: str | None, as_json: bool) -> None:
    """Print one page, newest first."""
    body = client.get(PATH, {"namespace": namespace, "limit": limit, "cursor": cursor})
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=Listing)
    if not page.items:
        output.say("No keys.")
        return
    output.table(
        ("KEY", "NAME", "STATE", "SCOPES", "NODES", "PAYLOADS", "LAST USED", "EXPIRES"),
        (
            (
                one.key_id,
                one.name,
                one.state,
                ",".join(one.scopes),
                ",".join(one.node_ids),
                "hidden" if one.hide_payloads else "shown",
                output.moment(one.last_used_at),
                output.moment(one.expires_at),
            )
            for one in page.items
        ),
    )
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def revoke(client: Client, key_id: str, *, namespace: str | None, as_json: bool) -> None:
    """Let nobody in by it any more."""
    body = client.post(_path(key_id, "revoke", namespace), about=key_id)
    output.data(body if as_json else f"{key_id} revoked")


def rotate(client: Client, key_id: str, asked: Mapping[str, object], *, namespace: str | None, as_json: bool) -> None:
    """Print the key that takes its place, this once."""
    said = {word: value for word, value in asked.items() if value is not None}
    show_new(client.post(_path(key_id, "rotate", namespace), orjson.dumps(said), about=key_id), as_json=as_json)


def create_ticket(client: Client, path: str, *, as_json: bool) -> None:
    """Print a ticket for this stream, this once."""
    body = client.post(TICKETS_PATH, orjson.dumps({"path": path}))
    if as_json:
        output.data(body)
        return
    found = members(body)
    output.data(str(text_of(found, "ticket")))
    output.say(f"For a minute, and once: {client.url}{path}?ticket=…")


def create_namespace(client: Client, name: str, *, as_json: bool) -> None:
    """Make it, and say what comes next."""
    body = client.post(NAMESPACES_PATH, orjson.dumps({"name": name}), about=name)
    output.data(body if as_json else f"{name} created")
    if not as_json:
        output.say(f"Its first key: controlplane keys create NAME --namespace {name} --scope admin")


def list_namespaces(client: Client, *, limit: int, cursor: str | None, as_json: bool) -> None:
    """Print one page, by name."""
    body = client.get(NAMESPACES_PATH, {"limit": limit, "cursor": cursor})
    if as_json:
        output.data(body)
        return
    page = msgspec.json.decode(body, type=NamespaceListing)
    output.table(("NAMESPACE", "CREATED"), ((one.name, output.moment(one.created_at)) for one in page.items))
    if page.next_cursor is not None:
        output.say(f"More: --cursor {page.next_cursor}")


def show_caps(client: Client, name: str, *, as_json: bool) -> None:
    """Print what the namespace may have and what it has."""
    _caps(client.get(_caps_path(name), about=name), as_json=as_json)


def set_caps(client: Client, name: str, words: Sequence[str], *, as_json: bool) -> None:
    """These hold from here on, and of the rest what the server says of all."""
    said: dict[str, int | None] = {}
    for word in words:
        cap, _, most = word.partition("=")
        try:
            said[cap] = None if most == UNLIMITED else int(most)
        except ValueError:
            raise Failure(
                f"{word!r} is not CAP=NUMBER.",
                fix=f"For example executions=1000, or keys={UNLIMITED}.",
                code=ExitCode.USAGE,
            ) from None
    _caps(client.put(_caps_path(name), orjson.dumps(said), about=name), as_json=as_json)


def _caps(body: bytes, *, as_json: bool) -> None:
    if as_json:
        output.data(body)
        return
    rows = msgspec.json.decode(body, type=CapListing).caps
    output.table(
        ("CAP", "MOST", "PRESENT", "SAID"),
        (
            (
                one.cap,
                UNLIMITED if one.most is None else str(one.most),
                "" if one.present is None else str(one.present),
                "of it" if one.said else "of all",
            )
            for one in rows
        ),
    )


def _caps_path(name: str) -> str:
    return f"{NAMESPACES_PATH}/{quote(name, safe='')}/caps"


def _path(key_id: str, verb: str, namespace: str | None) -> str:
    where = "" if namespace is None else f"?namespace={quote(namespace, safe='')}"
    return f"{PATH}/{quote(key_id, safe='')}/{verb}{where}"


def show_new(body: bytes, *, as_json: bool) -> None:
    """Print a key that was just made, this once."""
    if as_json:
        output.data(body)
        return
    found = members(body)
    output.data(str(text_of(found, "key")))
    output.say(f"{text_of(found, 'key_id')}. {SHOWN_ONCE}")
