"""API keys: who may come in, into which namespace, and what may be done there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType, Self
from uuid import UUID

from controlplane.domain.execution import DEFAULT_NAMESPACE
from controlplane.domain.row import Row
from controlplane.domain.target import is_name

KeyId = NewType("KeyId", UUID)

ENVIRONMENT = "environment"
"""The name of the key that the server was started with; no other key may have it."""
DEFAULT = "default"
"""The name of the namespace that is always there."""
ANY = "*"

NAME_MAX = 128
NODES_MAX = 100
"""Nodes, or beginnings of their names, that one key may speak for."""
LIFE_MIN_SECONDS = 1.0
LIFE_MAX_SECONDS = 10 * 365 * 86_400.0
OVERLAP_SECONDS = 86_400.0
OVERLAP_MAX_SECONDS = 30 * 86_400.0
"""How long a key goes on working, at most, that another one has replaced."""
KEYS_MAX = 1_000
"""Keys of one namespace that are neither revoked nor expired."""
NAMESPACES_MAX = 10_000


class KeyScope(StrEnum):
    """What a key may be used for. None of them contains another."""

    EXECUTE = "execute"
    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    NODE = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. `node_ids`: as which nodes it may speak; None where that does not depend on the key.

    `key_id`: by which key, where it is one that can be revoked. `hide_payloads`: of inputs, results, values and texts
    it is told that they are there, and never what they are.
    """

    name: str | None
    namespace: int
    scopes: frozenset[KeyScope]
    node_ids: tuple[str, ...] | None = None
    key_id: KeyId | None = None
    hide_payloads: bool = False

    def may(self, any_of: Collection[KeyScope]) -> bool:
        return not self.scopes.isdisjoint(any_of)

    def speaks_for(self, node_id: str) -> bool:
        return self.node_ids is None or covers(self.node_ids, node_id)


ANYBODY = Caller(name=None, namespace=DEFAULT_NAMESPACE, scopes=frozenset(KeyScope))
"""Who asks a server that has no key, from its own machine."""
STARTER = Caller(name=ENVIRONMENT, namespace=DEFAULT_NAMESPACE, scopes=frozenset(KeyScope))
"""Who comes with the key that the server was started with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as it is listed: everything but the key itself, of which nothing but its hash is kept."""

    id: KeyId
    namespace: int
    name: str
    prefix: str
    scopes: tuple[KeyScope, ...]
    node_ids: tuple[str, ...]
    hide_payloads: bool
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    replaced_by: KeyId | None
    state: KeyState

    @classmethod
    def from_row(cls, row: Row) -> Self:
        return cls(
            id=row["id"],
            namespace=row["namespace"],
            name=row["name"],
            prefix=row["prefix"],
            scopes=tuple(KeyScope(word) for word in row["scopes"]),
            node_ids=tuple(row["node_ids"] or ()),
            hide_payloads=row["hide_payloads"],
            created_at=row["created_at"],
            created_by=row["created_by"],
            expires_at=row["expires_at"],
            last_used_at=row["last_used_at"],
            revoked_at=row["revoked_at"],
            revoked_by=row["revoked_by"],
            replaced_by=row["replaced_by"],
            state=state_of(revoked=row["revoked_at"] is not None, expired=row["expired"]),
        )


class KeyState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a key is let in by. `seconds_left` until it expires; None: it does not."""

    id: KeyId
    hash: bytes
    caller: Caller
    state: KeyState
    seconds_left: float | None

    @classmethod
    def from_row(cls, row: Row) -> Self:
        scopes = frozenset(KeyScope(word) for word in row["scopes"])
        nodes = row["node_ids"]
        return cls(
            id=row["id"],
            hash=row["hash"],
            caller=Caller(
                name=row["name"],
                namespace=row["namespace"],
                scopes=scopes,
                node_ids=None if nodes is None else tuple(nodes),
                key_id=row["id"],
                hide_payloads=row["hide_payloads"],
            ),
            state=state_of(revoked=row["revoked"], expired=row["expired"]),
            seconds_left=row["seconds_left"],
        )


def state_of(*, revoked: bool, expired: bool) -> KeyState:
    if revoked:
        return KeyState.REVOKED
    return KeyState.EXPIRED if expired else KeyState.ACTIVE


def covers(patterns: Sequence[str], node_id: str) -> bool:
    """Whether one of these is this node, or its beginning with `*` after it."""
    return any(
        node_id.startswith(pattern[:-1]) if pattern.endswith(ANY) else node_id == pattern for pattern in patterns
    )


def is_pattern(text: str) -> bool:
    """Whether this names a node, or with `*` at its end all whose names begin so."""
    return text == ANY or is_name(text.removesuffix(ANY))


def wanting(scopes: Collection[KeyScope]) -> str:
    """In words, which scope is missing."""
    names = [scope.value for scope in KeyScope if scope in scopes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A part of a control plane with its own keys, nodes and work, of which no other sees anything."""

    id: int
    name: str
    created_at: datetime
