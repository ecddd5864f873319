"""`controlplane keys create --database-url …`: the first key of all, made where no server lets anybody in."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

import orjson

from controlplane.api.keys import PLACE, granted, named, shape_of
from controlplane.cli.database import ask, dsn_of, require_newest
from controlplane.cli.environment import settings_with
from controlplane.cli.failure import ExitCode, Failure
from controlplane.cli.keys import show_new
from controlplane.domain.audit import PLACE as AUDIT_PLACE
from controlplane.domain.audit import Actor, ActorKind, AuditId, Entry, changed
from controlplane.domain.ids import IdMaker, show
from controlplane.domain.key import DEFAULT, Key, KeyId, KeyScope
from controlplane.domain.placement import Placement
from controlplane.errors import NotFound, Refused
from controlplane.postgres.pool import Connection
from controlplane.reads import keys
from controlplane.security.keys import digest, make, prefix_of
from controlplane.stages import audit, issue_key
from controlplane.stages.issue_key import Wish


def create_in(
    database_url: str,
    *,
    name: str,
    scopes: Sequence[str],
    node_ids: Sequence[str],
    namespace: str | None,
    expires_in_seconds: float | None,
    hide_payloads: bool,
    as_json: bool,
) -> None:
    """Make a key where no server lets anybody in: in the database itself."""
    settings = settings_with(database_url=database_url)
    dsn = dsn_of(settings)
    require_newest(dsn, patience_seconds=0)
    placement = Placement(buckets=settings.buckets, hashed=settings.buckets_hashed)
    ids = IdMaker(lambda: time.time_ns() // 1_000_000, secrets.randbits)
    place = DEFAULT if namespace is None else namespace
    try:
        kinds, patterns = granted([KeyScope(word) for word in scopes], list(node_ids), hide_payloads=hide_payloads)
        fit = named(name)
    except Refused as error:
        raise Failure(error.detail, fix=error.fix, code=ExitCode.USAGE) from None
    except ValueError:
        raise Failure(f"A scope is one of {', '.join(KeyScope)}.", code=ExitCode.USAGE) from None

    async def issue(conn: Connection) -> tuple[Key, str]:
        where = await keys.namespace(conn, place)
        if where is None:
            raise NotFound(f"There is no namespace {place!r}.")
        id_ = KeyId(ids.new(placement.of_key(where.id, PLACE)))
        text = make(id_)
        wish = Wish(
            id=id_,
            namespace=where.id,
            name=fit,
            prefix=prefix_of(id_),
            hash=digest(text.encode()),
            scopes=kinds,
            node_ids=patterns,
            created_by=None,
            expires_in_seconds=expires_in_seconds,
            hide_payloads=hide_payloads,
        )
        async with conn.transaction():
            made = await issue_key.issue(conn, wish)
            await audit.append(conn, [_entry(ids, placement, made, where.id, place)])
        return made, text

    try:
        key, text = ask(dsn, issue)
    except NotFound as error:
        raise Failure(error.detail, code=ExitCode.NOT_FOUND) from None
    show_new(orjson.dumps(shape_of(key, place) | {"key": text}), as_json=as_json)


def _entry(ids: IdMaker, placement: Placement, made: Key, namespace: int, place: str) -> Entry:
    bucket = placement.of_key(namespace, AUDIT_PLACE)
    _, after = changed(None, shape_of(made, place))
    return Entry(
        id=AuditId(ids.new(bucket)),
        bucket=bucket,
        namespace=namespace,
        actor=Actor(kind=ActorKind.COMMAND, name="keys create"),
        action="key.created",
        object_kind="key",
        object_id=show("key", made.id),
        before=None,
        after=after,
    )
