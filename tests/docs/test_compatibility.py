"""The page on AgentField says what is true: its routes are served, its tests exist, and what is not here says so."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import NamedTuple

import pytest
from starlette.routing import WebSocketRoute

from controlplane.api.agentfield import absent
from controlplane.app import OPERATIONS, build
from controlplane.security.secrets import KeyRing
from controlplane.settings import Settings
from tests.docs.generated import ROOT

PAGE = ROOT / absent.PAGE
SERVED = ("yes", "partly", "not here")

ROUTE = re.compile(r"`(→ )?(GET|POST|PUT|PATCH|DELETE|WS) (\S+)`")
PARAMETER = re.compile(r"{\w+}")


class Row(NamedTuple):
    """A line of one of the tables. `called`: the server asks it of somebody else."""

    called: bool
    method: str
    path: str
    served: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text().splitlines():
        route = ROUTE.match(line.removeprefix("| "))
        if line.startswith("| ") and route is not None:
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 4, line
            tests = tuple(one.strip() for one in cells[2].split(","))
            found.append(Row(route[1] is not None, route[2], route[3], cells[1], tests))
    return found


ROWS = rows()
HERE = [row for row in ROWS if row.served in ("yes", "partly") and not row.called]
ABSENT = [row for row in ROWS if row.served == "not here"]


@cache
def served() -> frozenset[str]:
    """Every route and every socket of the application."""
    app = build(Settings(), database_url="postgresql://nobody", keyring=KeyRing.from_text(KeyRing.generate()))
    sockets = {f"WS {one.path}" for one in app.router.routes if isinstance(one, WebSocketRoute)}
    return frozenset({f"{one.method} {one.path}" for one in OPERATIONS} | sockets)


@cache
def names_in(path: str) -> frozenset[str]:
    """The names of the tests in this file."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_says_one_of_three_things(row: Row) -> None:
    """Served, partly, or not here."""
    assert row.served in SERVED


@pytest.mark.parametrize("row", HERE, ids=str)
def test_what_is_served_is_served(row: Row) -> None:
    """By this very method and path."""
    assert str(row) in served()


@pytest.mark.parametrize("row", ABSENT, ids=str)
def test_what_is_not_here_says_so(row: Row) -> None:
    """The answer to it names the part of AgentField that is missing, and no route of ours would take it."""
    path = PARAMETER.sub("x", row.path)
    ours = [one.path for one in OPERATIONS if re.fullmatch(PARAMETER.sub("[^/]+", one.path), path)]

    assert absent.part_of(path) is not None
    assert ours == []


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_named_test_exists(row: Row) -> None:
    """And there is one in every row."""
    for one in row.tests:
        path, _, name = one.partition("::")

        assert name in names_in(path), one


def test_no_route_stands_there_twice() -> None:
    """One row each."""
    routes = [str(row) for row in ROWS]

    assert len(routes) == len(set(routes))
    assert len(routes) > 90


def test_nothing_served_hides_behind_what_is_not_here() -> None:
    """A path that the table of absent parts covers is served only where it is meant to be."""
    covered = {one.path for one in OPERATIONS if absent.part_of(PARAMETER.sub("x", one.path)) is not None}

    assert covered == {"/api/v1/did/register"}
