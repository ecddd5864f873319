"""What is promised of the audit log."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct

from controlplane.api import audit
from controlplane.api.contract.keys import NAMESPACE, KeyText
from controlplane.api.contract.said import (
    PRINTABLE,
    SAID_MOMENT,
    Contract,
    Count,
    Link,
    Maybe,
    Moment,
    Rules,
    Said,
    id_pattern,
    integer,
    or_nothing,
    text,
    whole,
)
from controlplane.domain.audit import HASH_BYTES, ID_PREFIX, TEXT_CHARS_MAX, ActorKind

HASH = rf"[0-9a-f]{{{2 * HASH_BYTES}}}"
MARK = rf"[0-9]{{1,18}}:{HASH}"
HashText = Annotated[str, Meta(pattern=whole(HASH))]
MarkText = Annotated[str, Meta(pattern=whole(MARK))]


class AuditRow(Struct):
    """A row of the log, and its place in the chain. `before` and `after`: the facts that changed."""

    audit_id: Annotated[str, Meta(pattern=id_pattern(ID_PREFIX))]
    chain: int
    seq: Annotated[int, Meta(ge=1)]
    at: Moment
    actor_kind: ActorKind
    action: str
    object_kind: str
    object_id: str
    previous: HashText
    hash: HashText
    actor: Maybe[str] = UNSET
    key_id: Maybe[KeyText] = UNSET
    actor_namespace: Maybe[str] = UNSET
    request_id: Maybe[str] = UNSET
    address: Maybe[str] = UNSET
    user_agent: Maybe[str] = UNSET
    before: Any = UNSET
    after: Any = UNSET


class AuditNewest(Struct):
    """The newest first. `next_before`: where to go on; null, when that was all."""

    items: list[AuditRow]
    next_before: Count | None


class AuditOldest(Struct):
    """The oldest first. `next_after`: where to go on; null, when that was all."""

    items: list[AuditRow]
    next_after: Count | None


class BrokenRow(Struct):
    seq: Count
    why: str


class AuditVerified(Struct):
    """`end`: how far it holds. `head`: what to keep elsewhere. `broken`: the first row that is not as written."""

    namespace: str
    holds: bool
    complete: bool
    rows: Count
    begin: MarkText
    end: MarkText
    head: MarkText
    removed: MarkText
    broken: BrokenRow | None


NUMBER = integer(0, audit.SEQ_MAX)
WANTED = text(0, 2 * TEXT_CHARS_MAX, PRINTABLE)
SAID_MARK = text(pattern=or_nothing(MARK))

CONTRACT: Contract = {
    audit.page: Said(
        answers={200: (AuditNewest, AuditOldest)},
        parameters={
            **dict.fromkeys(("actor", "action", "object"), WANTED),
            **dict.fromkeys(("since", "until"), SAID_MOMENT),
            **dict.fromkeys(("after", "before"), NUMBER),
            "limit": integer(1, audit.LIMIT_MAX, default=audit.LIMIT_DEFAULT),
            **NAMESPACE,
        },
    ),
    audit.verify: Said(
        answers={200: AuditVerified},
        parameters={"after": SAID_MARK, "head": SAID_MARK, **NAMESPACE},
        links={
            200: {
                "goOn": Link(to="/api/v1/audit/verify", parameters={"after": "$response.body#/end"}),
                "again": Link(to="/api/v1/audit/verify", parameters={"head": "$response.body#/head"}),
            }
        },
    ),
}

RULES: Rules = {}
