"""The document as a campaign reads it: what is answered has no member that is not described."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Json = Any


def closed(document: Json) -> Json:
    """The document with every object closed that stands in an answer. Forms stay as open as they are."""
    whole = json.loads(json.dumps(document))
    schemas = whole["components"]["schemas"]
    answers = [whole["components"]["responses"]]
    answers += [one["responses"] for methods in whole["paths"].values() for one in methods.values()]
    names = set(_named(answers))
    while more := set(_named([schemas[name] for name in names])) - names:
        names |= more
    for name in names:
        _close(schemas[name])
    return whole


def _named(node: Json) -> Iterator[str]:
    """The schemas that are referred to, by name."""
    if isinstance(node, dict):
        if "/schemas/" in (reference := node.get("$ref", "")):
            yield reference.rsplit("/", 1)[1]
        for part in node.values():
            yield from _named(part)
    elif isinstance(node, list):
        for part in node:
            yield from _named(part)


def _close(schema: Json) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _close(part)
    elif isinstance(schema, list):
        for part in schema:
            _close(part)
