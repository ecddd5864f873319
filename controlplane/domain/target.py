"""A target is `node_id.reasoner_name`, with exactly one dot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple

from controlplane.errors import TargetMalformed

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-:]{0,127}")


class Target(NamedTuple):
    node_id: str
    reasoner_id: str

    def __str__(self) -> str:
        return f"{self.node_id}.{self.reasoner_id}"


def parse(text: str) -> Target:
    """The two halves of a target. Raises TargetMalformed."""
    node_id, dot, reasoner_id = text.partition(".")
    if not dot or not is_name(node_id) or not is_name(reasoner_id):
        raise TargetMalformed(
            "The target must have the form node_id.reasoner_name: letters, digits, _ - : and exactly one dot.",
            where="path",
            fix="Use a name from GET /api/v1/reasoners.",
        )
    return Target(node_id, reasoner_id)


def is_name(text: str) -> bool:
    """Whether a node or a reasoner may be called this (1 to 128 characters)."""
    return NAME.fullmatch(text) is not None


def nearest(target: str, known: Iterable[str]) -> list[str]:
    """At most three known targets that somebody who wrote this one may have meant."""
    return get_close_matches(target, list(known), n=3, cutoff=0.5)
