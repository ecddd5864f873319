"""Whose: to which namespace and which node an execution belongs, for those who speak of one that they hold.

Reads and stages that are given a namespace find nothing of another one. What a node says of its attempts comes in
batches, by id and attempt alone: here it is made sure that they are its own. What an execution belongs to never
changes, so that it is remembered, from the moment that a process leases it here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple
from uuid import UUID

from starlette.requests import Request

from controlplane.api.doors import asker_of, doors_of
from controlplane.domain.key import Caller, KeyScope
from controlplane.domain.lease import Fence
from controlplane.domain.target import parse
from controlplane.errors import ControlPlaneError, LeaseLost, NodeNotAllowed, ScopeMissing
from controlplane.postgres.pool import Pool, persist
from controlplane.reads import keys

KEPT_MAX = 50_000
RETRY_SECONDS = 5.0


class Owner(NamedTuple):
    namespace: int
    node_id: str


class Whose:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._kept: OrderedDict[UUID, Owner] = OrderedDict()

    def keep(self, id_: UUID, namespace: int, target: str) -> None:
        self._kept[id_] = Owner(namespace, parse(target).node_id)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)

    async def of(self, ids: Iterable[UUID]) -> dict[UUID, Owner]:
        """Whose these are; of those that there are not, nothing."""
        wanted = set(ids)
        found = {id_: owner for id_ in wanted if (owner := self._kept.get(id_)) is not None}
        missing = sorted(wanted - found.keys())
        if missing:
            read = await persist(self._pool, partial(keys.whose, ids=missing), seconds=RETRY_SECONDS)
            for id_, (namespace, target) in read.items():
                self.keep(id_, namespace, target)
                found[id_] = self._kept[id_]
        return found


async def refusals(request: Request, ids: Iterable[UUID]) -> dict[UUID, ControlPlaneError]:
    """Those of these executions that are not the caller's to speak for, each with why.

    One of another namespace is refused as one that there is not.
    """
    doors, caller = doors_of(request), asker_of(request)
    owners = await doors.whose.of(ids)
    refused = ((id_, _refusal(caller, owner)) for id_, owner in owners.items())
    return {id_: error for id_, error in refused if error is not None}


async def require(request: Request, fence: Fence | None) -> None:
    """The caller may speak for this attempt. Raises: LeaseLost, NodeNotAllowed, ScopeMissing."""
    if fence is None:
        return
    if KeyScope.NODE not in asker_of(request).scopes:
        raise ScopeMissing(
            "Only a node speaks for an attempt: this needs a key with the scope node.",
            where="X-Execution-ID",
            fix="Leave out the execution, or send a key with the scope node.",
            scope=KeyScope.NODE.value,
        )
    for error in (await refusals(request, [fence.execution_id])).values():
        raise error


def require_node(request: Request, node_id: str) -> None:
    """The caller may speak as this node. Raises: NodeNotAllowed."""
    if not asker_of(request).speaks_for(node_id):
        raise NodeNotAllowed


def as_node(request: Request, scope: KeyScope) -> bool:
    """Whether the caller is let in as a node alone, without this scope: then it speaks only of what is its own."""
    return scope not in asker_of(request).scopes


def require_declared(request: Request, target: str, managed_by: str | None) -> None:
    """What starts this target is the code's of a node that the caller speaks as, which serves it itself.

    Raises: NodeNotAllowed.
    """
    if managed_by is None or parse(target).node_id != managed_by:
        raise NodeNotAllowed("A key with the scope node alone declares what starts its own node's reasoners.")
    require_node(request, managed_by)


def _refusal(caller: Caller, owner: Owner) -> ControlPlaneError | None:
    if owner.namespace != caller.namespace:
        return LeaseLost()
    return None if caller.speaks_for(owner.node_id) else NodeNotAllowed()
