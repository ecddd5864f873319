"""What a node's code declares to start its reasoners, made true at every start of the node.

A webhook is a trigger that is managed by the node, a cron is a schedule whose name begins with the node's. What the
code no longer declares is paused, and not deleted: what somebody still sends is kept and can be replayed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from controlplane_sdk.errors import RequestRefused, ServerError
from controlplane_sdk.function import Function
from controlplane_sdk.schedules import Schedules
from controlplane_sdk.transport import Transport
from controlplane_sdk.triggers import EXISTS, Cron, Trigger, Triggers, Webhook

T = TypeVar("T")

REMOVED = "removed from code"
PATIENCE_SECONDS = 60.0
PAGE = 200
PART_CHARS = 48
"""Of a node's and of a reasoner's name, each, in the name of a schedule, which has at most 128."""

_log = logging.getLogger("controlplane_sdk")


class Declared:
    """The webhooks and crons of one node."""

    def __init__(self, node_id: str, functions: Iterable[Function]) -> None:
        """Raises: ValueError for one slug or name that stands twice, RuntimeError for a secret that there is not."""
        self._node_id = node_id
        self._hooks: dict[str, tuple[str, Webhook, str]] = {}
        self._crons: dict[str, tuple[str, Cron]] = {}
        for function in functions:
            target = f"{node_id}.{function.name}"
            for one in function.triggers:
                if isinstance(one, Webhook):
                    self._add(self._hooks, one.slug, (target, one, _secret(one)))
                else:
                    self._add(self._crons, schedule_name(node_id, function.name, one), (target, one))

    async def make_true(self, transport: Callable[[], Transport]) -> None:
        """Create, change, resume and pause what differs; said again it changes nothing. What fails is logged."""
        triggers = Triggers(transport, lambda id_, _: id_, patience_seconds=PATIENCE_SECONDS)
        schedules = Schedules(transport, lambda id_, _: id_, patience_seconds=PATIENCE_SECONDS)
        for slug in self._hooks:
            await self._tried(f"webhook {slug}", self._hook(triggers, slug))
        for name in self._crons:
            await self._tried(f"schedule {name}", self._cron(schedules, name))
        await self._tried("webhooks that the code no longer declares", self._pause_hooks(triggers))
        await self._tried("schedules that the code no longer declares", self._pause_crons(schedules))

    async def _tried(self, what: str, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except (ServerError, ValueError) as error:
            _log.error("%s: %s: %s", self._node_id, what, error)

    async def _hook(self, triggers: Triggers[str], slug: str) -> None:
        target, one, secret = self._hooks[slug]
        try:
            made = await self._create(triggers, slug, target, one, secret, replace=False)
        except RequestRefused as error:
            if error.code != EXISTS:
                raise
            there = await triggers.get(slug)
            if there.managed_by != self._node_id:
                raise ValueError(f"the slug is taken by {there.managed_by or 'one that no code declares'}") from None
            made = await self._create(triggers, slug, target, one, secret, replace=True)
        if made.paused and made.paused_reason == REMOVED:
            await triggers.resume(slug)
        elif made.paused:
            _log.warning("%s: webhook %s is paused", self._node_id, slug)

    async def _create(
        self, triggers: Triggers[str], slug: str, target: str, one: Webhook, secret: str, *, replace: bool
    ) -> Trigger:
        return await triggers.create(
            slug,
            target,
            preset=one.preset,
            secret=secret,
            arguments=one.arguments,
            event_types=one.event_types,
            managed_by=self._node_id,
            replace=replace,
            **one.scheme,
        )

    async def _cron(self, schedules: Schedules[str], name: str) -> None:
        target, one = self._crons[name]
        made = await schedules.create(
            name,
            target,
            one.input,
            cron=one.expression,
            time_zone=one.tz,
            overlap=one.overlap,  # type: ignore[arg-type]
            catch_up=one.catch_up,  # type: ignore[arg-type]
            jitter_seconds=one.jitter_seconds,
            replace=True,
        )
        if made.paused:
            _log.warning("%s: schedule %s is paused; resume it when it shall come again", self._node_id, name)

    async def _pause_hooks(self, triggers: Triggers[str]) -> None:
        cursor: str | None = None
        while True:
            page = await triggers.list(managed_by=self._node_id, limit=PAGE, cursor=cursor)
            for one in page.items:
                if one.name not in self._hooks and not one.paused:
                    await triggers.pause(one.name, REMOVED)
            if (cursor := page.next_cursor) is None:
                return

    async def _pause_crons(self, schedules: Schedules[str]) -> None:
        start = cursor = _start(self._node_id)
        while True:
            page = await schedules.list(limit=PAGE, cursor=cursor)
            ours = [one for one in page.items if one.name.startswith(start)]
            for one in ours:
                mine = one.target.startswith(f"{self._node_id}.")
                if mine and one.name not in self._crons and not one.paused:
                    await schedules.pause(one.name)
            if page.next_cursor is None or len(ours) < len(page.items):
                return
            cursor = page.next_cursor

    def _add(self, known: dict[str, T], name: str, one: T) -> None:
        if name in known:
            raise ValueError(f"{self._node_id} declares {name} twice")
        known[name] = one


def schedule_name(node_id: str, reasoner: str, one: Cron) -> str:
    """The name of the schedule that a cron is."""
    return f"{_start(node_id)}{_short(reasoner)}:{one.key()}"


def _start(node_id: str) -> str:
    return f"code:{_short(node_id)}:"


def _short(name: str) -> str:
    return name if len(name) <= PART_CHARS else hashlib.sha256(name.encode()).hexdigest()[:PART_CHARS]


def _secret(one: Webhook) -> str:
    secret = os.environ.get(one.secret_env)
    if not secret:
        raise RuntimeError(f"the webhook {one.slug} needs its secret in the environment variable {one.secret_env}")
    return secret
