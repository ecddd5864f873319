"""Settings: who may come in, who changed what, how it goes with the server, and how long things are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.doors import asker_of, doors_of
from controlplane.api.operation import ADMIN
from controlplane.domain.execution import DEFAULT_NAMESPACE
from controlplane.domain.ids import show
from controlplane.domain.key import Caller, KeyScope, KeyState
from controlplane.errors import NamespaceNotAllowed
from controlplane.ui.action import Action, Entry, command, not_allowed
from controlplane.ui.asking import Api, paged
from controlplane.ui.paint import paint
from controlplane.ui.payload import Payload

Json = Any
AUDIT_ROWS = 50
NAMESPACES_SHOWN = 200
ONCE = "It is shown here once and then never again."
FIRST = "It is the first one: from then on every page and every call needs a key, so let it have admin."
NO_MORE = "Nobody comes in by it any more, at once and for good, and what streams by it ends."
YOUR_OWN = "You came in by this very key: you will have to sign in by another."
OVER = {KeyState.REVOKED: "It is revoked.", KeyState.EXPIRED: "It has expired."}


class Settings:
    """`api`: what this page asks."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def page(self, request: Request) -> Response:
        """Its keys and its audit log are for whoever may see them."""
        caller = asker_of(request)
        off = not_allowed(caller, ADMIN)
        return paint(
            request,
            "settings.html",
            title="Settings",
            at="settings",
            health=await self._api.get(request, "/api/v1/health"),
            retention=await self._api.get(request, "/api/v1/retention"),
            new=new(caller, _namespace(request), first=not doors_of(request).entrance.closed, off=off),
            looks=off,
            **await self._system(request),
            **({} if off else await self._admin(request)),
        )

    async def _system(self, request: Request) -> dict[str, Json]:
        """How the database does, for who may be told."""
        try:
            return {"system": await self._api.get(request, "/api/v1/system")}
        except NamespaceNotAllowed as error:
            return {"refused": error.detail}

    async def _admin(self, request: Request) -> dict[str, Json]:
        """The keys and the audit log of the namespace that the address names, else of the reader's own."""
        namespace, caller = _namespace(request), asker_of(request)
        of = [("namespace", namespace)]
        keys = await self._api.get(request, "/api/v1/keys", [*of, *paged(request)])
        wanted = [*of, ("limit", str(AUDIT_ROWS)), ("before", request.query_params.get("before", ""))]
        audit = await self._api.get(request, "/api/v1/audit", wanted)
        names: list[str] = []
        if caller.namespace == DEFAULT_NAMESPACE:
            found = await self._api.get(request, "/api/v1/namespaces", [("limit", str(NAMESPACES_SHOWN))])
            names = [one["name"] for one in found["items"]]
        return {
            "namespace": namespace,
            "namespaces": names,
            "query": urlencode(of) if namespace else "",
            "keys": [(one, [rotates(one, namespace), revokes(one, caller, namespace)]) for one in keys["items"]],
            "next_cursor": keys["next_cursor"],
            "audit": [(one, changes(one)) for one in audit["items"]],
            "next_before": audit["next_before"],
        }


def new(caller: Caller, namespace: str, *, first: bool, off: str | None) -> Action:
    """A key, which is in the answer and nowhere else."""
    entries = [
        Entry(name="name", label="Name: who it is for", kind="word", required=True),
        Entry(name="scopes", label="It may", kind="words", option="--scope", choices=tuple(KeyScope)),
        Entry(name="node_ids", label="With node: as which (worker-1 or worker-*)", kind="words", option="--node"),
        Entry(name="expires_in_seconds", label="Ends after so many seconds", kind="number", option="--expires-in"),
    ]
    if caller.namespace == DEFAULT_NAMESPACE:
        label = "Namespace (else default)"
        entries.append(Entry(name="namespace", label=label, option="--namespace", value=namespace))
    entries.append(
        Entry(
            name="hide_payloads",
            label="It is shown no payloads",
            kind="flag",
            option="--hide-payloads",
            value="true" if caller.hide_payloads else "",
        )
    )
    return Action(
        name="new",
        label="New key",
        path="api/v1/keys",
        says=f"{ONCE} {FIRST}" if first else ONCE,
        cli=command("keys", "create"),
        python="print((await client.keys.create({})).key.get_secret_value())",
        entries=entries,
        once="key",
        off=off,
    )


def rotates(key: Mapping[str, Json], namespace: str) -> Action:
    """A key in its place, as it is only when nobody has done so yet."""
    id_ = key["key_id"]
    replaced = "Another has taken its place." if key.get("replaced_by") else None
    return Action(
        name=f"rotate-{id_}",
        label="Rotate",
        path=_path(id_, "rotate", namespace),
        says=f"Another key that may do the same. {ONCE} The old one goes on for a day, or for as long as is said here.",
        cli=_command("rotate", id_, namespace),
        python=f"print((await client.keys.rotate({_said(id_, namespace)}, {{}})).key.get_secret_value())",
        body={},
        entries=(
            Entry(
                name="overlap_seconds",
                label="The old one goes on for so many seconds",
                kind="number",
                option="--overlap",
            ),
            Entry(
                name="expires_in_seconds",
                label="The new one ends after so many seconds",
                kind="number",
                option="--expires-in",
            ),
        ),
        once="key",
        off=OVER.get(key["state"]) or replaced,
    )


def revokes(key: Mapping[str, Json], caller: Caller, namespace: str) -> Action:
    """The end of a key."""
    id_ = key["key_id"]
    own = caller.key_id is not None and show("key", caller.key_id) == id_
    return Action(
        name=f"revoke-{id_}",
        label="Revoke",
        path=_path(id_, "revoke", namespace),
        says=f"{key['name']}: {NO_MORE}" + (f" {YOUR_OWN}" if own else ""),
        cli=_command("revoke", id_, namespace),
        python=f"await client.keys.revoke({_said(id_, namespace)})",
        danger=True,
        off=OVER[KeyState.REVOKED] if key["state"] == KeyState.REVOKED else None,
    )


def changes(row: Mapping[str, Json]) -> list[tuple[str, str | None, str | None]]:
    """What each fact was before and is after; None where there was, or is, nothing of the kind."""
    before, after = _facts(row.get("before")), _facts(row.get("after"))
    return [(name, before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])]


def _facts(facts: Json) -> dict[str, str]:
    return {name: _text(value) for name, value in facts.items()} if isinstance(facts, dict) else {}


def _text(value: Json) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=_letters)


def _letters(value: object) -> str:
    return value.raw.decode("utf-8", "replace") if isinstance(value, Payload) else str(value)


def _namespace(request: Request) -> str:
    return request.query_params.get("namespace", "")


def _path(key_id: str, verb: str, namespace: str) -> str:
    where = f"?{urlencode({'namespace': namespace})}" if namespace else ""
    return f"api/v1/keys/{quote(key_id, safe='')}/{verb}{where}"


def _command(verb: str, key_id: str, namespace: str) -> str:
    return command("keys", verb, key_id, *(("--namespace", namespace) if namespace else ()))


def _said(key_id: str, namespace: str) -> str:
    return repr(key_id) + (f", namespace={namespace!r}" if namespace else "")
