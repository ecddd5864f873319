"""Being known to the control plane: registered, with an open session whose lease is alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from controlplane_sdk import strict_json
from controlplane_sdk.contact import Contact
from controlplane_sdk.context import Fence
from controlplane_sdk.errors import RequestRefused, ServerError
from controlplane_sdk.heartbeat import Heartbeat
from controlplane_sdk.node import Node
from controlplane_sdk.transport import Backoff, Reply, Transport

CLOSE_SECONDS = 2.0
JOIN_SECONDS = 0.5
HOPELESS = frozenset({400, 401, 403, 413, 422})

_log = logging.getLogger("controlplane_sdk")


class Membership:
    """One session after the other, for as long as the process lives."""

    def __init__(
        self,
        node: Node,
        transport: Transport,
        headers: Mapping[str, str],
        *,
        held: Callable[[], list[Fence]],
        contact: Contact,
        on_answer: Callable[[dict[str, Any]], None],
        on_closed: Callable[[], None],
    ) -> None:
        """`on_answer` hears every heartbeat's answer, `on_closed` that a session is over: all it held is lost.

        Raises: TypeError when a function's signature cannot be served: at the start, not at the first call.
        """
        self._node = node
        self._transport = transport
        self._headers = headers
        self._held = held
        self._contact = contact
        self._on_answer = on_answer
        self._on_closed = on_closed
        self._instance_id = secrets.token_hex(16)
        self._registration = node.registration(self._instance_id)
        self._registered = False
        self._welcomed = False
        self._heartbeat: Heartbeat | None = None
        self._open = asyncio.Event()
        self.session_id: str | None = None

    async def opened(self) -> str:
        """The open session's id, as soon as there is one."""
        while self.session_id is None:
            await self._open.wait()
        return self.session_id

    async def connect(self) -> str:
        """Register if need be and open a session, however long it takes.

        Raises: RequestRefused when it never worked and trying again would not help.
        """
        backoff = Backoff()
        while self.session_id is None:
            try:
                if not self._registered:
                    await self._register()
                await self._open_session()
            except RequestRefused as error:
                if error.code == "node_not_found":
                    self._registered = False
                elif not self._welcomed and error.status in HOPELESS:
                    raise
                else:
                    self._contact.lost("session", error)
            except ServerError as error:
                self._contact.lost("session", error)
            if self.session_id is None:
                await asyncio.sleep(backoff.next_seconds())
        self._contact.made("session")
        return self.session_id

    def gone(self, session_id: str, reply: Reply | None = None) -> None:
        """The control plane says that this session is closed."""
        if reply is not None and reply.code == "node_not_found":
            self._registered = False
        if session_id != self.session_id:
            return
        self.session_id = None
        self._open.clear()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._on_closed()

    def tell_all(self) -> None:
        """The next heartbeat names every attempt; what the control plane leased to us beyond that, it takes back."""
        if self._heartbeat is not None:
            self._heartbeat.tell_all()

    async def close(self) -> None:
        """Close the session: all it still holds goes back to the queue at once."""
        heartbeat, session_id = self._heartbeat, self.session_id
        self._heartbeat, self.session_id = None, None
        if heartbeat is not None:
            heartbeat.stop()
        if session_id is not None:
            path, body = f"/sessions/{session_id}/close", b'{"reason":"shutdown"}'
            with contextlib.suppress(ServerError):
                await self._transport.send_until_answered(
                    "POST", path, body, answer_seconds=CLOSE_SECONDS, patience_seconds=CLOSE_SECONDS
                )
        if heartbeat is not None:
            # Its request may be held for a while yet; the thread dies with the process.
            await asyncio.to_thread(heartbeat.join, JOIN_SECONDS)

    async def _register(self) -> None:
        (await self._transport.send("POST", "/nodes/register", self._registration)).expect()
        self._registered = True

    async def _open_session(self) -> None:
        node = self._node
        wish = {"instance_id": self._instance_id, "slots": node.slots, "heartbeat_seconds": node.heartbeat_seconds}
        path = f"/nodes/{quote(node.node_id, safe='')}/sessions"
        opened = (await self._transport.send("POST", path, strict_json.encode(wish))).expect()
        self.session_id = str(opened["session_id"])
        self._welcomed = True
        self._heartbeat = Heartbeat(
            server=self._transport.server,
            headers=self._headers,
            session_id=self.session_id,
            seconds=float(opened.get("heartbeat_seconds") or node.heartbeat_seconds),
            held=self._held,
            contact=self._contact,
            on_answer=self._on_answer,
            on_gone=self.gone,
        )
        self._heartbeat.start()
        self._open.set()
        names = ", ".join(node.functions)
        _log.info("%s serves %s at %s (%s)", node.node_id, names, self._transport.server, self.session_id)
