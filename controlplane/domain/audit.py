"""The audit log: who changed what, in a chain of which nothing can be changed, taken out or put in unseen.

Each row says the hash of the one before it and its own, which is over that hash and everything else that the row says.
Whoever has kept a head (the number and the hash of a row) can tell whether all up to there is still as it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple, NewType, Self
from uuid import UUID

from controlplane.domain.ids import read, show
from controlplane.domain.row import Row
from controlplane.errors import Invalid

AuditId = NewType("AuditId", UUID)
Facts = Mapping[str, Any]
"""What is known of something, as JSON: small, and never a secret or a payload."""

PLACE = "audit"
"""Beside a namespace's number: what the bucket of its chain is hashed from."""
VERSION = "controlplane.audit.1"
ID_PREFIX = "aud"
FACTS_BYTES_MAX = 8_192
TEXT_CHARS_MAX = 256
"""Characters of a user agent, an address and an object's name that are kept."""
HASH_BYTES = 32


class ActorKind(StrEnum):
    """How somebody came in: by an API key, by the key that the server was started with, from this machine while there
    was no key, by a signed link or body, by a command on the database itself; or this machine's own daemons.
    """

    KEY = "key"
    ENVIRONMENT = "environment"
    ANYBODY = "anybody"
    LINK = "link"
    COMMAND = "command"
    DAEMON = "daemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who did it. `namespace`: from which one, where it is another than that in which something was done."""

    kind: ActorKind
    name: str | None = None
    key_id: UUID | None = None
    namespace: str | None = None
    request_id: str | None = None
    address: str | None = None
    user_agent: str | None = None

    @classmethod
    def daemon(cls, name: str) -> Self:
        """What this machine does by itself."""
        return cls(kind=ActorKind.DAEMON, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is to be written down. Its id is the caller's own: written twice it is one row.

    `action`: what happened, as `key.revoked`. `before` and `after`: the facts that changed, as JSON.
    """

    id: AuditId
    bucket: int
    namespace: int
    actor: Actor
    action: str
    object_kind: str
    object_id: str
    before: bytes | None
    after: bytes | None


class Mark(NamedTuple):
    """A row of a chain by its number and its hash. What can be kept elsewhere, to be compared with later."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"

    @classmethod
    def read(cls, text: str, *, where: str) -> Mark:
        """`7:` and the hash in hex. Raises Invalid."""
        seq, _, hexed = text.partition(":")
        try:
            found = cls(int(seq), bytes.fromhex(hexed)) if seq.isascii() and seq.isdigit() and len(seq) < 19 else None
        except ValueError:
            found = None
        if found is None or len(found.hash) != HASH_BYTES or hexed != found.hash.hex():
            raise Invalid("The number of a row, a colon and its hash.", where=where, fix="As `head` says it.")
        return found


START = Mark(0, bytes(HASH_BYTES))
"""Before the first row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A row of the log. `chain`: the number of its namespace."""

    chain: int
    seq: int
    id: AuditId
    at: datetime
    actor_kind: str
    actor: str | None
    key_id: UUID | None
    actor_namespace: str | None
    request_id: str | None
    address: str | None
    user_agent: str | None
    action: str
    object_kind: str
    object_id: str
    before: bytes | None
    after: bytes | None
    previous: bytes
    hash: bytes

    @classmethod
    def from_row(cls, row: Row) -> Self:
        return cls(
            chain=row["namespace"],
            seq=row["seq"],
            id=AuditId(row["id"]),
            at=row["at"],
            actor_kind=row["actor_kind"],
            actor=row["actor"],
            key_id=row["key_id"],
            actor_namespace=row["actor_namespace"],
            request_id=row["request_id"],
            address=row["address"],
            user_agent=row["user_agent"],
            action=row["action"],
            object_kind=row["object_kind"],
            object_id=row["object_id"],
            before=row["before"],
            after=row["after"],
            previous=row["previous"],
            hash=row["hash"],
        )

    @classmethod
    def from_shape(cls, said: Facts) -> Self:
        """A row as the API shows it and an export keeps it. Raises ValueError where it is none."""
        try:
            return cls(
                chain=int(said["chain"]),
                seq=int(said["seq"]),
                id=AuditId(read(ID_PREFIX, said["audit_id"], where="audit_id")),
                at=datetime.fromisoformat(said["at"]),
                actor_kind=said["actor_kind"],
                actor=said.get("actor"),
                key_id=read("key", said["key_id"], where="key_id") if "key_id" in said else None,
                actor_namespace=said.get("actor_namespace"),
                request_id=said.get("request_id"),
                address=said.get("address"),
                user_agent=said.get("user_agent"),
                action=said["action"],
                object_kind=said["object_kind"],
                object_id=said["object_id"],
                before=dump(said["before"]) if "before" in said else None,
                after=dump(said["after"]) if "after" in said else None,
                previous=bytes.fromhex(said["previous"]),
                hash=bytes.fromhex(said["hash"]),
            )
        except (KeyError, TypeError, AttributeError, Invalid) as error:
            raise ValueError(f"not a row of the audit log: {error}") from error

    @property
    def mark(self) -> Mark:
        return Mark(self.seq, self.hash)

    def rehashed(self) -> bytes:
        """What its hash has to be: SHA-256 over `previous` and each field with its length before it."""
        fields = (
            VERSION,
            str(self.chain),
            str(self.seq),
            str(self.id),
            instant(self.at),
            self.actor_kind,
            self.actor,
            None if self.key_id is None else str(self.key_id),
            self.actor_namespace,
            self.request_id,
            self.address,
            self.user_agent,
            self.action,
            self.object_kind,
            self.object_id,
            self.before,
            self.after,
        )
        return hashlib.sha256(self.previous + b"".join(map(_measured, fields))).digest()

    def shape(self) -> dict[str, object]:
        """As the API shows it, but for `before` and `after`, which are JSON already."""
        said = {
            "audit_id": show(ID_PREFIX, self.id),
            "chain": self.chain,
            "seq": self.seq,
            "at": instant(self.at),
            "actor_kind": self.actor_kind,
            "actor": self.actor,
            "key_id": None if self.key_id is None else show("key", self.key_id),
            "actor_namespace": self.actor_namespace,
            "request_id": self.request_id,
            "address": self.address,
            "user_agent": self.user_agent,
            "action": self.action,
            "object_kind": self.object_kind,
            "object_id": self.object_id,
            "previous": self.previous.hex(),
            "hash": self.hash.hex(),
        }
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Broken:
    """The first row that is not as it was written, or not there, and what is wrong with it."""

    seq: int
    why: str


@dataclass(frozen=True, slots=True)
class Walked:
    """How far a chain holds: from after `begin` to `end`, and what is broken behind that."""

    begin: Mark
    end: Mark
    broken: Broken | None

    @property
    def rows(self) -> int:
        return self.end.seq - self.begin.seq


def walk(begin: Mark, rows: Iterable[Audited]) -> Walked:
    """Go along the rows that stand behind this one, up to the first that is not what was written."""
    end = begin
    for row in rows:
        broken = _broken(end, row)
        if broken is not None:
            return Walked(begin, end, broken)
        end = row.mark
    return Walked(begin, end, None)


def _broken(before: Mark, row: Audited) -> Broken | None:
    if row.seq > before.seq + 1:
        return Broken(before.seq + 1, "It is missing.")
    if row.seq <= before.seq:
        return Broken(row.seq, "It stands there twice, or not in its place.")
    if row.previous != before.hash:
        return Broken(row.seq, "It does not go on from the row before it: one of the two is not what was written.")
    if row.rehashed() != row.hash:
        return Broken(row.seq, "It says something else than was written.")
    return None


def changed(before: Facts | None, after: Facts | None) -> tuple[bytes | None, bytes | None]:
    """Of what was and what is only what differs, as JSON; None for what was not there, or is not any more."""
    if before is None or after is None:
        return _kept(before), _kept(after)
    was = {name: value for name, value in before.items() if name not in after or after[name] != value}
    now = {name: value for name, value in after.items() if name not in before or before[name] != value}
    return _kept(was), _kept(now)


def dump(facts: object) -> bytes:
    """The one text of these facts: names in order, no spaces, ASCII."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()


def clipped(text: str | None) -> str | None:
    """At most so many characters of what somebody else wrote, each of which can be printed."""
    if text is None:
        return None
    return "".join(one if one.isprintable() else "?" for one in text[:TEXT_CHARS_MAX])


def instant(at: datetime) -> str:
    """A moment to the microsecond, as it goes into the hash."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _kept(facts: Facts | None) -> bytes | None:
    if facts is None:
        return None
    text = dump({name: value for name, value in facts.items() if value is not None})
    if len(text) <= FACTS_BYTES_MAX:
        return text
    return dump({"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest(), "left_out": sorted(facts)[:32]})


def _measured(field: str | bytes | None) -> bytes:
    if field is None:
        return b"-"
    text = field.encode() if isinstance(field, str) else field
    return b"%d:%b" % (len(text), text)
