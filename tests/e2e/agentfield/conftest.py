"""Agents written with AgentField's SDK, unmodified, against a server of ours: only the URL says which it is.

Leases and patience with agents are what they are by default: an agent that imports its model's library does not answer
for seconds, and must not be taken for dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.agentfield.environment import installed
from tests.e2e.conftest import NewDatabase
from tests.e2e.processes import Node, Plane, Stage, free_port
from tests.e2e.receiver import Model

HERE = Path(__file__).parent
TEST_SECONDS = 120
LISTENS = "Uvicorn running on"
"""What an agent says after it has registered, or has found no server, and listens."""

StartAgent = Callable[..., Node]

QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONUNBUFFERED": "1", "PYTHONPATH": ""}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Installing the SDK takes as long as the network does; a test does not."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))


def start_agent(stage: Stage, plane: Plane, python: Path, script: str, *, name: str | None = None, **env: str) -> Node:
    """An agent that runs this script, at a port that stays its own when it is started again."""
    return stage.node(
        plane, script, name=name, python=python, says=LISTENS, **(QUIET | {"PORT": str(free_port())} | env)
    )


@pytest.fixture(scope="session")
def sdk() -> Path:
    """The interpreter that has the SDK."""
    return installed()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Where the processes of a module's tests stand."""
    with Stage(tmp_path_factory.mktemp("agentfield")) as stage:
        yield stage


@pytest.fixture(scope="module")
def plane(stage: Stage, sdk: Path, new_database: NewDatabase) -> Plane:
    """A server that takes work, for all tests of a module."""
    return stage.plane(new_database())


@pytest.fixture(scope="module")
def agent(stage: Stage, plane: Plane, sdk: Path) -> StartAgent:
    """Starts an agent from its script."""
    return partial(start_agent, stage, plane, sdk)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """A language model."""
    with Model() as model:
        yield model
