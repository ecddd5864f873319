"""The protocols hold in every state that a small world can come to, and without any one of their guards they do not."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from pathlib import Path

import pytest

from tests.debian import install
from tests.model.checker import MODELS, Mark, marks, search, text_of

LONG = os.environ.get("MODEL") == "long"
# Whole worlds, by what may be in them; all but the first of each are the long form.
WORLDS: dict[str, list[dict[str, str | int]]] = {
    "claim": [
        {"EXECUTIONS": 1, "TROUBLES": 1},
        {"EXECUTIONS": 1, "TROUBLES": 2},
        {"EXECUTIONS": 2, "TROUBLES": 1},
    ],
    "deliver": [{"TROUBLES": 2}, {"DISPATCHERS": 3, "TROUBLES": 3, "ATTEMPTS_MAX": 3}],
}
LOOKED_AT = [
    pytest.param(model, world, id=" ".join([model, *(f"{name}={count}" for name, count in world.items())]))
    for model, worlds in WORLDS.items()
    for world in (worlds[1:] if LONG else worlds[:1])
]
MARKS = [(model, mark) for model in MODELS for mark in marks(model)]
WALLS = [(model, mark) for model, mark in MARKS if mark.front]
NAMES = [f"{model}-{mark.name}" for model, mark in MARKS]
STATEMENT = re.compile(r"/\* (\w+)\.([A-Z][A-Z_]+)")
marked = pytest.mark.parametrize(("model", "mark"), MARKS, ids=NAMES)

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]


@pytest.fixture(scope="session")
def spin() -> None:
    """Spin, and the C compiler that its searches are made with."""
    install("spin", "gcc", "libc6-dev")


@pytest.mark.usefixtures("spin")
@pytest.mark.parametrize(("model", "world"), LOOKED_AT)
def test_holds(model: str, world: dict[str, str | int], tmp_path: Path) -> None:
    """No state that can be reached breaks a rule."""
    found = search(model, tmp_path, optimise=True, **world)
    print(f"measured: {model} {world}: {found.states:,} states")

    assert found.broken is None, found.story
    assert found.states > 1_000


@pytest.mark.usefixtures("spin")
@marked
def test_breaks_without_its_guard(model: str, mark: Mark, tmp_path: Path) -> None:
    """Without this guard, and the one in front of it, there is a way to break the rule that it is there for."""
    world = {**WORLDS[model][0], **mark.world}
    if mark.front:
        front = next(one for one in marks(model) if one.name == mark.front)
        world |= {"ALSO": front.name, "IGNORED": front.rule}
    found = search(model, tmp_path, WITHOUT=mark.name, **world)

    assert found.broken == mark.rule, found.story


if LONG:  # every state that there is, once for each

    @pytest.mark.usefixtures("spin")
    @pytest.mark.parametrize(("model", "mark"), WALLS, ids=[mark.name for _, mark in WALLS])
    def test_holds_with_what_stands_in_front(model: str, mark: Mark, tmp_path: Path) -> None:
        """A second wall is no more than that: alone it can go, and nothing breaks."""
        found = search(model, tmp_path, optimise=True, WITHOUT=mark.name, **WORLDS[model][0])

        assert found.broken is None, found.story


@marked
def test_guard_stands_in_the_code(model: str, mark: Mark) -> None:
    """What the model says that the product checks is what the product says."""
    place = getattr(importlib.import_module(f"controlplane.stages.{mark.module}"), mark.where)
    text = place if isinstance(place, str) else inspect.getsource(place)

    assert mark.text in text


@pytest.mark.parametrize("model", MODELS)
def test_statements_of_the_model_exist(model: str) -> None:
    """Every step of the model that names a statement names one of the stages."""
    named = set(STATEMENT.findall(text_of(model)))
    missing = {one for one in named if not isinstance(_constant(*one), str)}

    assert named
    assert not missing


@pytest.mark.parametrize("model", MODELS)
def test_every_guard_of_the_model_is_tried(model: str) -> None:
    """The list that the model is compiled with and the lines at its head name the same guards."""
    used = set(re.findall(r"(?:guard|left_out)\((\w+)", text_of(model)))

    assert used == {mark.name for mark in marks(model)}


def _constant(module: str, name: str) -> object:
    return getattr(importlib.import_module(f"controlplane.stages.{module}"), name, None)
