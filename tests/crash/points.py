"""Crash points: every place at which a process may die between two of its effects, listed from the code itself.

An effect of ours begins and ends at an `await`: a statement, a commit, a request. So the points are all the awaits of
a module, and for `async with` both its entry and its exit (that is where a transaction commits), for `async for` each
step of it. Nothing of this is in the product: in a process that asks for it an import hook compiles the chosen modules
with a call before and a call after each of them; everywhere else the modules are what they are.

How it is used:

    points_of("controlplane.stages.lease")   # from the source, without importing it; a new await is in it by itself
    install(["controlplane.stages.lease"])   # before anything imports that module, else NotFirst
    arm("stages.lease:claim#2", Side.AFTER)  # this process dies there, at its first visit; `visit=3`: at its third
    visits()                                 # how often each side of each point was passed, armed or not

A name is `module:function#n`: the module without our package's name, the function with what it stands in
(`daemons.reaper:Reaper.tick`, `postgres.lane:Lane._persist.flush`), and the n-th point in it, counted in the order of
the source; an `async with` counts twice, first its entry and then its exit. Points move when a function gains an await:
write none of them down by hand, take them from `points_of` or `visits`.

Death is `os._exit(137)`, what `kill -9` comes to: no `finally`, no `except`, nothing closed but by the kernel.
An await that raises does not pass the side AFTER: its process goes on at the point behind. Line numbers in tracebacks
stay those of the source, and no byte code of this is ever cached.

For a whole program there is the environment; `python -m tests.crash.under -m controlplane serve` reads it:

    CRASH_MODULES=controlplane.stages.lease,controlplane.daemons.reaper
    CRASH_AT="stages.lease:claim#2 before 1"     # may be absent: then it only counts
    CRASH_VISITS=/tmp/visits.json                # may be absent; written when the program ends by itself
"""

from __future__ import annotations

import ast
import atexit
import importlib.util
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

KILLED = 137
"""The exit status of a process that has died at its point: 128 + SIGKILL."""

PACKAGE = "controlplane."
CALLS = "__crash_points__"


class Side(StrEnum):
    BEFORE = "before"
    AFTER = "after"


class Kind(StrEnum):
    AWAIT = "await"
    ENTER = "enter"
    EXIT = "exit"
    NEXT = "next"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """The `number`-th place in this function at which it waits, at this line of its file."""

    module: str
    line: int
    function: str
    number: int
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.module.removeprefix(PACKAGE)}:{self.function}#{self.number}"


class NotFirst(RuntimeError):
    """The module is imported already, without its points."""


def points_of(module: str) -> list[Point]:
    """All the points of a module, in the order of its source."""
    return _instrument(_source(module), module)[1]


def install(modules: Iterable[str]) -> None:
    """From here on these modules are imported with their points. Raises NotFirst."""
    wanted = frozenset(modules)
    if early := wanted & sys.modules.keys():
        raise NotFirst(f"already imported: {', '.join(sorted(early))}")
    sys.meta_path.insert(0, _Finder(wanted))


def arm(point: str, side: Side, visit: int = 1) -> None:
    """The process dies when it comes to this side of this point for the `visit`-th time from now."""
    _calls.armed = (point, side)
    _calls.left = visit


def disarm() -> None:
    _calls.armed = None


def visits() -> Counter[tuple[str, Side]]:
    """How often this process has passed each side of each point since it began, or since `forget`."""
    return Counter(_calls.visits)


def forget() -> None:
    """Count from nothing."""
    _calls.visits.clear()


def obey(environment: dict[str, str]) -> None:
    """Do what the variables say (see above)."""
    install(name for name in environment.get("CRASH_MODULES", "").split(",") if name)
    if at := environment.get("CRASH_AT"):
        point, side, visit = at.split()
        arm(point, Side(side), int(visit))
    if path := environment.get("CRASH_VISITS"):
        atexit.register(_write_visits, Path(path))


def _write_visits(path: Path) -> None:
    path.write_text(json.dumps({f"{name} {side}": count for (name, side), count in sorted(visits().items())}))


class _Calls:
    """What the rewritten modules call. There is one in a process, as there is one death."""

    def __init__(self) -> None:
        self.visits: Counter[tuple[str, Side]] = Counter()
        self.armed: tuple[str, Side] | None = None
        self.left = 0

    def before(self, point: str) -> None:
        self._pass(point, Side.BEFORE)

    def after(self, point: str, value: Any) -> Any:
        self._pass(point, Side.AFTER)
        return value

    def scope(self, enter: str, leave: str, inner: AbstractAsyncContextManager[Any]) -> _Scope:
        return _Scope(self, enter, leave, inner)

    async def steps(self, point: str, items: Any) -> AsyncIterator[Any]:
        iterator = aiter(items)
        while True:
            self.before(point)
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                self._pass(point, Side.AFTER)
                return
            yield self.after(point, item)

    def _pass(self, point: str, side: Side) -> None:
        here = (point, side)
        self.visits[here] += 1
        if here == self.armed:
            self.left -= 1
            if self.left == 0:
                os._exit(KILLED)


class _Scope:
    """An `async with` that passes its points: `enter` around its entry, `leave` around its exit."""

    def __init__(self, calls: _Calls, enter: str, leave: str, inner: AbstractAsyncContextManager[Any]) -> None:
        self._calls = calls
        self._enter = enter
        self._leave = leave
        self._inner = inner

    async def __aenter__(self) -> Any:
        self._calls.before(self._enter)
        return self._calls.after(self._enter, await self._inner.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._calls.before(self._leave)
        swallowed: bool | None = self._calls.after(self._leave, await self._inner.__aexit__(kind, error, traceback))
        return swallowed


_calls = _Calls()


class _Finder(MetaPathFinder):
    def __init__(self, modules: frozenset[str]) -> None:
        self._modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in self._modules else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Compiled anew each time: the cache belongs to the modules as they are."""
        path = self.get_filename(fullname)
        tree, _ = _instrument(self.get_data(path), fullname)
        code: CodeType = compile(tree, path, "exec", dont_inherit=True)
        return code

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, CALLS, _calls)
        super().exec_module(module)


def _source(module: str) -> bytes:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return Path(spec.origin).read_bytes()


def _instrument(source: bytes, module: str) -> tuple[ast.Module, list[Point]]:
    rewriter = _Rewriter(module)
    tree = rewriter.visit(ast.parse(source))
    return ast.fix_missing_locations(tree), rewriter.points


class _Rewriter(ast.NodeTransformer):
    """Puts the calls in, and writes down the points as it meets them."""

    def __init__(self, module: str) -> None:
        self.points: list[Point] = []
        self._module = module
        self._within: list[str] = []
        self._numbers: Counter[str] = Counter()

    def _inside(self, node: Any) -> Any:
        self._within.append(node.name)
        self.generic_visit(node)
        self._within.pop()
        return node

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _inside  # noqa: N815 - the names that ast calls

    def visit_Await(self, node: ast.Await) -> ast.expr:
        """`await x` becomes `after(point, await (before(point), x)[1])`."""
        point = self._point(node, Kind.AWAIT)
        self.generic_visit(node)
        both = ast.Tuple([_call("before", point), node.value], ast.Load())
        node.value = ast.copy_location(ast.Subscript(both, ast.Constant(1), ast.Load()), node.value)
        return ast.copy_location(_call("after", point, node), node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AsyncWith:
        for item in node.items:
            at = item.context_expr
            points = self._point(at, Kind.ENTER), self._point(at, Kind.EXIT)
            item.context_expr = ast.copy_location(_call("scope", *points, self.visit(at)), at)
        node.body = [self.visit(one) for one in node.body]
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AsyncFor:
        self._step(node, node.iter)
        self.generic_visit(node)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        if node.is_async:
            self._step(node, node.iter)
        self.generic_visit(node)
        return node

    def _step(self, node: ast.AsyncFor | ast.comprehension, items: ast.expr) -> None:
        node.iter = ast.copy_location(_call("steps", self._point(items, Kind.NEXT), items), items)

    def _point(self, node: ast.expr, kind: Kind) -> str:
        function = ".".join(self._within)
        self._numbers[function] += 1
        self.points.append(Point(self._module, node.lineno, function, self._numbers[function], kind))
        return self.points[-1].name


def _call(name: str, *arguments: str | ast.expr) -> ast.Call:
    calls = ast.Attribute(ast.Name(CALLS, ast.Load()), name, ast.Load())
    values = [ast.Constant(one) if isinstance(one, str) else one for one in arguments]
    return ast.Call(calls, values, [])
