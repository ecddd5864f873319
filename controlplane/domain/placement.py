"""Which bucket a row lives in: chosen once, at submit, and carried inside the id ever after.

`hashed` (H) is frozen at the first migration; `buckets` (B) may grow, because old ids keep theirs. Both are 1 on a
stock PostgreSQL, where the rule costs a constant.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from controlplane.domain.ids import bucket_of, run_bucket

Item = TypeVar("Item")

NOBODY = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    buckets: int = 1
    hashed: int = 1
    _turn: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    def all(self) -> range:
        """Every bucket that may hold rows."""
        return range(max(self.buckets, self.hashed))

    def of_key(self, namespace: int, *parts: str) -> int:
        """The bucket of something found by a name: a node, a session scope, a schedule."""
        if self.hashed == 1:
            return 0
        digest = hashlib.blake2b("\0".join((str(namespace), *parts)).encode(), digest_size=8).digest()
        return int.from_bytes(digest) % self.hashed

    def of_run(self, namespace: int, run_id: str) -> int:
        """The bucket of a run: decoded from an id of ours, else hashed.

        A text that only looks like an id of ours must not lead to a bucket where nobody looks for work.
        """
        own = run_bucket(run_id)
        return own if own is not None and own in self.all() else self.of_key(namespace, run_id)

    def next(self) -> int:
        """The bucket of a submit that belongs to nothing yet: all in turn."""
        return next(self._turn) % self.buckets

    def of_submit(self, namespace: int, *, run_id: str | None, idempotency_key: str | None) -> int:
        if run_id is not None:
            return self.of_run(namespace, run_id)
        if idempotency_key is not None:
            return self.of_key(namespace, idempotency_key)
        return self.next()


def by_bucket(items: Iterable[Item], id_of: Callable[[Item], UUID]) -> Iterator[tuple[int, list[Item]]]:
    """The items of each bucket, lowest bucket first, so that two flushes lock in the same order."""
    return by_place(items, lambda item: bucket_of(id_of(item)))


def by_place(items: Iterable[Item], bucket: Callable[[Item], int]) -> Iterator[tuple[int, list[Item]]]:
    parts: dict[int, list[Item]] = {}
    for item in items:
        parts.setdefault(bucket(item), []).append(item)
    yield from sorted(parts.items())


def span(ids: Collection[UUID]) -> tuple[UUID, UUID]:
    """The least and the greatest of these ids.

    PostgreSQL looks for `id = any($2)` in every partition there is; with `id between` these beside it, only in those of
    the weeks that they are from.
    """
    return min(ids, default=NOBODY), max(ids, default=NOBODY)
