"""Signatures: what they announce and how they are filled."""

from __future__ import annotations

import dataclasses
from datetime import date
from typing import Any

import pytest

from controlplane_sdk import Context, InvalidInput
from controlplane_sdk.schema import Signature

CONTEXT = Context(
    execution_id="exec_1", attempt=1, node_id="n", target="n.f", reasoner="f", run_id="r", root_execution_id="exec_1"
)


def fill(function: Any, data: Any) -> Any:
    positional, keywords = Signature(function).bind(data, CONTEXT)
    return function(*positional, **keywords)


def test_names_that_pydantic_keeps_for_itself_are_fine():
    """A parameter may be called json, schema, model or model_config."""

    def f(json: int, schema: int, model: str, model_config: int, _private: int = 1) -> list[Any]:
        return [json, schema, model, model_config, _private]

    assert fill(f, {"json": "1", "schema": 2, "model": "m", "model_config": 4}) == [1, 2, "m", 4, 1]


def test_context_is_passed_in_and_not_announced():
    """It is found by its annotation, under any name, also when it is optional or positional-only."""

    def f(day: date, where: Context | None = None, /, *, other: int = 3) -> list[Any]:
        return [day, where, other]

    assert fill(f, {"day": "2030-01-02"}) == [date(2030, 1, 2), CONTEXT, 3]
    assert set(Signature(f).input_schema()["properties"]) == {"day", "other"}


def test_mutable_defaults_are_not_shared():
    """Every execution gets its own default."""

    def f(items: list[int] = []) -> list[int]:  # noqa: B006 - what the test is about
        items.append(1)
        return items

    signature = Signature(f)

    for _ in range(2):
        assert f(**signature.bind({}, CONTEXT)[1]) == [1]


def test_free_keywords_are_taken_when_the_function_takes_them():
    """**kwargs receives what has no parameter; without it an unknown name is an error."""

    def f(a: int, **rest: Any) -> dict[str, Any]:
        return rest

    assert fill(f, {"a": 1, "b": [2]}) == {"b": [2]}
    with pytest.raises(InvalidInput, match="b: Extra inputs"):
        Signature(lambda a: a).bind({"a": 1, "b": 2}, CONTEXT)


@pytest.mark.parametrize("data", [[1], "text", 3, {"a": {}}, {}])
def test_what_does_not_fit_is_invalid_input(data):
    """Anything but an object with the right arguments is refused with a reason."""

    def f(a: int) -> None: ...

    with pytest.raises(InvalidInput):
        fill(f, data)


def test_no_input_is_an_empty_object():
    """A reasoner without arguments may be called with null."""
    assert fill(lambda: 7, None) == 7


def test_a_signature_that_json_cannot_fill_is_a_type_error():
    """Said at registration, not at the first call."""

    class Odd: ...

    def f(a: Odd) -> None: ...

    f.__annotations__ = {"a": Odd}
    with pytest.raises(TypeError):
        Signature(f)
    with pytest.raises(TypeError, match=r"\*items"):
        Signature(lambda *items: items)


def test_output_schema_follows_the_annotation():
    """The result's schema is announced where there is one."""

    @dataclasses.dataclass
    class Answer:
        day: date

    def f() -> Answer: ...

    def g() -> None: ...

    f.__annotations__ = {"return": Answer}

    assert Signature(f).output_schema()["properties"]["day"]["format"] == "date"
    assert Signature(lambda: 1).output_schema() is None
    assert Signature(g).output_schema() == {"type": "null"}
