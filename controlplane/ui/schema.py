"""Schemas: the fields of a form, from the JSON schema that a node has said of a reasoner's input.

A node may say anything. What is no plain field is a field that takes JSON, and what is no object has no fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Any
FIELDS_MAX = 60
CHOICES_MAX = 200
REFERENCE = "#/$defs/"
KINDS = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
NESTED = {"array": "array", "object": "object"}
BOUNDS = (("minimum", "minimum"), ("maximum", "maximum"), ("shortest", "minLength"), ("longest", "maxLength"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One member of the input. `kind`: text, integer, number, boolean, array, object or json; `choices` are JSON.

    `said` is all of it for the script, which checks what was typed.
    """

    name: str
    kind: str
    required: bool
    choices: Sequence[str]
    hint: str
    said: str

    @property
    def options(self) -> list[tuple[str, str]]:
        """Each choice, and how people read it: a text without its quotes."""
        return [(one, json.loads(one) if one.startswith('"') else one) for one in self.choices]


def fields_of(raw: bytes) -> list[Field]:
    """The members of the input in the order of the schema; none where it says of none, or of too many for a form."""
    try:
        schema = json.loads(raw)
        members = schema.get("properties", {})
        if not isinstance(members, dict) or len(members) > FIELDS_MAX:
            return []
        required = schema.get("required")
        needed = {one for one in required if isinstance(one, str)} if isinstance(required, list) else set()
        return [_field(name, one, schema, required=name in needed) for name, one in members.items()]
    except (ValueError, RecursionError, AttributeError):
        return []


def _field(name: str, said: Json, schema: Mapping[str, Json], *, required: bool) -> Field:
    one, nullable = _plain(said if isinstance(said, dict) else {}, schema)
    word = one.get("type")
    kind = (KINDS | NESTED).get(word, "json") if isinstance(word, str) else "json"
    choices = _choices(one, kind)
    bounds = {ours: one[theirs] for ours, theirs in BOUNDS if _is_number(one.get(theirs))}
    shown = said if isinstance(said, dict) else {}
    about = {"name": name, "kind": kind, "required": required, "nullable": nullable, "choices": choices or None}
    return Field(
        name=name,
        kind=kind,
        required=required,
        choices=choices,
        hint=_hint(shown, kind, choices),
        said=json.dumps(about | bounds, allow_nan=False),
    )


def _plain(said: Mapping[str, Json], schema: Mapping[str, Json]) -> tuple[Mapping[str, Json], bool]:
    """Without what stands around it: a reference to a definition beside it, and that it may be null."""
    options = said.get("anyOf")
    nullable = False
    if isinstance(options, list):
        others = [one for one in options if isinstance(one, dict) and one.get("type") != "null"]
        nullable = len(others) < len(options)
        said = others[0] if len(others) == 1 else {}
    reference = said.get("$ref")
    if isinstance(reference, str):
        definitions = schema.get("$defs")
        found = definitions.get(reference.removeprefix(REFERENCE)) if isinstance(definitions, dict) else None
        said = found if isinstance(found, dict) else {}
    return said, nullable


def _choices(one: Mapping[str, Json], kind: str) -> list[str]:
    if kind == "boolean":
        return ["true", "false"]
    listed = one.get("enum")
    if isinstance(listed, list) and 0 < len(listed) <= CHOICES_MAX:
        return [json.dumps(choice, allow_nan=False) for choice in listed]
    return []


def _hint(said: Mapping[str, Json], kind: str, choices: Sequence[str]) -> str:
    """What its author says of it, what it takes where that is not plain to see, and what it is otherwise."""
    about = said.get("description")
    parts = [about] if isinstance(about, str) else []
    if kind not in ("text", "json") and not choices:
        parts.append({"integer": "A whole number.", "number": "A number."}.get(kind, f"A JSON {kind}."))
    elif kind == "json" and not choices:
        parts.append("JSON.")
    if "default" in said:
        parts.append(f"Left empty: {json.dumps(said['default'], ensure_ascii=False)}.")
    return " ".join(parts)


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
