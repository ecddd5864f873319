"""Real documents that are on every machine: the module docstrings of the running Python's standard library."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

NOT_MODULES = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "__main__.py", "__pycache__"}
)


def documents() -> list[str]:
    """Every module docstring of the standard library, packages first, by name; nothing is imported."""
    found: list[str] = []
    for name, path in modules():
        text = ast.get_docstring(ast.parse(path.read_bytes()))
        if text:
            found.append(f"{name}\n\n{text}")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    """The name and source of every module that has one."""
    for name in sorted(sys.stdlib_module_names - NOT_MODULES):
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        path = Path(spec.origin)
        yield name, path
        if spec.submodule_search_locations:
            for inner in sorted(path.parent.rglob("*.py")):
                parts = inner.relative_to(path.parent).with_suffix("").parts
                if inner != path and inner.name != "__init__.py" and not NOT_MODULES & {*parts, inner.name}:
                    yield ".".join((name, *parts)), inner
