"""Vectors: embeddings beside a key, compared by the angle between them (cosine).

Numbers are bounded so that no product or sum of the comparison can leave the range of a double: PostgreSQL refuses to
compute what overflows or underflows. Embeddings of models are far inside (most have the norm 1).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.lease import Fence
from controlplane.domain.memory import Place, Scope
from controlplane.errors import Invalid

DIMENSIONS_MAX = 4_096
LOOKED_AT_MAX = 10_000  # vectors of one scope that a search compares: with 1,536 dimensions 0.7 s
TOP_K_DEFAULT = 10
TOP_K_MAX = 1_000
METADATA_BYTES_MAX = 65_536
NORM_MIN = 1e-100
NORM_MAX = 1e100
NEGLIGIBLE = 1e-100  # of the norm; a double tells apart 1e-16


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Finite numbers that are not all zero, and their norm."""

    values: tuple[float, ...]
    norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Store this vector under its key. With a fence, only while that attempt holds its lease."""

    place: Place
    embedding: Embedding
    metadata: bytes | None
    fence: Fence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """Remove the vector under this key, which need not be there."""

    place: Place
    fence: Fence | None = None


Change = Keep | Forget


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """A stored vector as it is read back."""

    scope: Scope
    scope_id: str
    key: str
    embedding: tuple[float, ...]
    metadata: bytes | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A stored vector that a search found. `score`: the cosine of the angle, from -1 to 1."""

    scope: Scope
    scope_id: str
    key: str
    score: float
    metadata: bytes | None
    created_at: datetime
    updated_at: datetime


def measure(values: Sequence[float], *, where: str) -> Embedding:
    """These numbers as an embedding; what is negligible beside its norm is zero. Raises Invalid."""
    if not 1 <= len(values) <= DIMENSIONS_MAX:
        raise Invalid(f"From 1 to {DIMENSIONS_MAX} numbers.", where=where)
    norm = math.hypot(*values)
    if norm == 0:
        raise Invalid("A zero vector points nowhere: it cannot be compared.", where=where)
    if not NORM_MIN <= norm <= NORM_MAX:  # neither is NaN
        raise Invalid(f"The norm must be from {NORM_MIN:g} to {NORM_MAX:g}.", where=where, fix="Scale the vector.")
    least = norm * NEGLIGIBLE
    return Embedding(values=tuple(value if abs(value) >= least else 0.0 for value in values), norm=norm)


def unit(embedding: Embedding) -> tuple[float, ...]:
    """The direction alone."""
    return tuple(value / embedding.norm for value in embedding.values)


def matches(metadata: bytes | None, wanted: Mapping[str, object]) -> bool:
    """Whether each of these top-level keys is there and has the same value."""
    if not wanted:
        return True
    found = read_object(metadata or b"{}")
    return all(key in found and same(found[key], value) for key, value in wanted.items())


def read_object(raw: bytes) -> Mapping[str, object]:
    """A JSON object that is known to be one."""
    found: Mapping[str, object] = json.loads(raw)
    return found


def same(one: object, other: object) -> bool:
    """Whether two JSON values are equal: 1 is 1.0, and neither is true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
