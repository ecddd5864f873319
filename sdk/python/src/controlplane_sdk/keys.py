"""API keys and namespaces: who may come in, into what, and what may be done there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, SecretStr

from controlplane_sdk import strict_json
from controlplane_sdk.transport import Transport, present

KeyScope = Literal["execute", "read", "operate", "admin", "node"]

CapName = Literal[
    "executions",
    "stored_bytes",
    "schedules",
    "triggers",
    "keys",
    "nodes",
    "sessions_per_node",
    "memory_keys",
    "memory_bytes",
]


class Key(BaseModel):
    """A key as it is listed. Fields that a newer control plane adds are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    key_id: str
    name: str
    namespace: str = "default"
    prefix: str = ""
    scopes: tuple[str, ...] = ()
    node_ids: tuple[str, ...] = ()
    hide_payloads: bool = False
    state: str = "active"
    created_at: datetime | None = None
    created_by: str | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    replaced_by: str | None = None


class NewKey(Key):
    """A key that was just made: `key.get_secret_value()` is the key, which is never to be had again."""

    key: SecretStr
    replaces: Key | None = None


class Ticket(BaseModel):
    """What opens one stream, once: its `path` with `?ticket=` and `ticket.get_secret_value()`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    ticket: SecretStr
    path: str
    expires_in_seconds: float


class Namespace(BaseModel):
    """A part of a control plane of which no other sees anything."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    created_at: datetime | None = None


class Cap(BaseModel):
    """How many of `cap` a namespace may have (`most`; None: any number), and has (`present`; None: not counted).

    `said`: it was said of this namespace; else it is the server's `default`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    cap: str
    most: int | None = None
    default: int | None = None
    said: bool = False
    present: int | None = None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Some keys, newest first, and the cursor to the next ones."""

    items: Sequence[Key]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class NamespacePage:
    """Some namespaces, by name, and the cursor to the next ones."""

    items: Sequence[Namespace]
    next_cursor: str | None


class Keys:
    """`client.keys`, for a key with the scope `admin`. `namespace`: another than its own, for those of `default`."""

    def __init__(self, transport: Callable[[], Transport], *, patience_seconds: float) -> None:
        self._transport = transport
        self._patience_seconds = patience_seconds

    async def create(
        self,
        name: str,
        scopes: Sequence[KeyScope],
        *,
        node_ids: Sequence[str] | None = None,
        expires_in_seconds: float | None = None,
        namespace: str | None = None,
        hide_payloads: bool = False,
    ) -> NewKey:
        """A new key. With the scope `node`, `node_ids` are the nodes that it speaks as: `worker`, `worker-*`, `*`.

        `hide_payloads`: it is told that inputs, results, values and texts are there, and never what they are.

        Sent once: after a lost answer a key may be there that nobody has seen; `list` shows it, and `revoke` ends it.
        """
        body = {
            "name": name,
            "scopes": list(scopes),
            "node_ids": None if node_ids is None else list(node_ids),
            "expires_in_seconds": expires_in_seconds,
            "namespace": namespace,
            "hide_payloads": hide_payloads or None,
        }
        reply = await self._transport().send("POST", "/keys", strict_json.encode(present(body)))
        return NewKey.model_validate(reply.expect())

    async def list(self, *, namespace: str | None = None, limit: int = 50, cursor: str | None = None) -> KeyPage:
        """Keys with when they were used last, also those that are over; never the keys themselves."""
        body = await self._ask("GET", "/keys", namespace=namespace, limit=str(limit), cursor=cursor)
        return KeyPage([Key.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def revoke(self, key_id: str, *, namespace: str | None = None) -> Key:
        """Let nobody in by it any more, at once and for good. Raises: NotFound."""
        return Key.model_validate(
            await self._ask("POST", f"/keys/{quote(key_id, safe='')}/revoke", {}, namespace=namespace)
        )

    async def rotate(
        self,
        key_id: str,
        *,
        overlap_seconds: float | None = None,
        expires_in_seconds: float | None = None,
        namespace: str | None = None,
    ) -> NewKey:
        """A key in its place; the old one goes on for `overlap_seconds`, a day by default.

        Sent once, as `create`: after a lost answer revoke what `replaced_by` of the old one names, and create another.
        Raises: NotFound; RequestRefused where it is over, or was replaced before.
        """
        body = {"overlap_seconds": overlap_seconds, "expires_in_seconds": expires_in_seconds}
        path = f"/keys/{quote(key_id, safe='')}/rotate"
        reply = await self._transport().send(
            "POST", path, strict_json.encode(present(body)), params=present({"namespace": namespace}) or None
        )
        return NewKey.model_validate(reply.expect())

    async def create_ticket(self, path: str) -> Ticket:
        """A way for a browser into the stream at this path, once and within a minute, with what this client's key may.

        For a key with the scope `read` or `node`. Raises: RequestRefused.
        """
        reply = await self._transport().send("POST", "/tickets", strict_json.encode({"path": path}))
        return Ticket.model_validate(reply.expect())

    async def create_namespace(self, name: str) -> Namespace:
        """A new namespace. Raises: RequestRefused where there is one of this name."""
        reply = await self._transport().send("POST", "/namespaces", strict_json.encode({"name": name}))
        return Namespace.model_validate(reply.expect())

    async def list_namespaces(self, *, limit: int = 50, cursor: str | None = None) -> NamespacePage:
        """Namespaces by name."""
        body = await self._ask("GET", "/namespaces", limit=str(limit), cursor=cursor)
        return NamespacePage([Namespace.model_validate(item) for item in body["items"]], body.get("next_cursor"))

    async def caps(self, namespace: str = "default") -> Sequence[Cap]:
        """How much a namespace may have, and what it has. Raises: NotFound; another than its own is for `default`."""
        body = await self._ask("GET", f"/namespaces/{quote(namespace, safe='')}/caps")
        return [Cap.model_validate(item) for item in body["caps"]]

    async def set_caps(self, namespace: str, caps: Mapping[CapName, int | None]) -> Sequence[Cap]:
        """These hold from here on, for a key of `default`; None is any number, what is left out the server's default.

        What is there already stays. Raises: NotFound; RequestRefused for what is no cap.
        """
        # Not through `present`: None says something here.
        reply = await self._transport().send(
            "PUT", f"/namespaces/{quote(namespace, safe='')}/caps", strict_json.encode(dict(caps))
        )
        return [Cap.model_validate(item) for item in reply.expect()["caps"]]

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, **params: str | None) -> Any:
        return await self._transport().ask(
            method,
            path,
            None if body is None else present(body),
            params=params,
            patience_seconds=self._patience_seconds,
        )
