"""What a process offers, and how it says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane_sdk import strict_json
from controlplane_sdk.function import Function


@dataclass(frozen=True, kw_only=True)
class Node:
    """One process's offer."""

    node_id: str
    version: str
    functions: Mapping[str, Function]
    slots: int
    heartbeat_seconds: float
    drain_seconds: float

    def registration(self, instance_id: str) -> bytes:
        """Raises: TypeError when a function's signature cannot be served."""
        said = {"id": self.node_id, "version": self.version, "transport": "pull", "instance_id": instance_id}
        lists = {"reasoners": self._announce("reasoner"), "skills": self._announce("skill")}
        return strict_json.encode(said | lists | {"metadata": {"sdk": "python"}})

    def _announce(self, kind: str) -> list[dict[str, Any]]:
        return [function.announcement() for function in self.functions.values() if function.kind == kind]
