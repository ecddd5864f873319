"""A row, as the database hands it out."""

from __future__ import annotations

from typing import Any, Protocol


class Row(Protocol):
    """Something with named fields."""

    def __getitem__(self, name: str, /) -> Any: ...
