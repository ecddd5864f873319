"""The way in: one table of paths in front of the framework's own routing.

FastAPI's exception, exit-stack and router layers cost more per request than a submit itself; what is in the table does
not pass through them. Everything else (OpenAPI, sockets, paths that do not exist) goes on to FastAPI.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.api import problems
from controlplane.api.fields import fields_of
from controlplane.api.operation import Operation
from controlplane.errors import bare

PARAMETER = re.compile(r"\\\{(\w+)\\\}")
ANY = "{}"
"""In the place of a word of a path that is a parameter."""
FOUND = "controlplane.found"
"""Where in a request's scope the gate leaves what is asked for."""
DOORS = "controlplane.doors"
"""Where in a request's scope the house leaves what its handlers work with; None before it is open."""


Shown = Callable[[Request, Response], Response]
"""Makes a page of a refusal for whoever looks with a browser, and lets every other one be."""


class Found(NamedTuple):
    """An operation, and what stands in its path."""

    operation: Operation
    path_params: dict[str, str]


class Table:
    """Which operation a method and a path mean."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._exact: dict[tuple[str, str], Operation] = {}
        self._patterns: dict[tuple[str, int, str], list[tuple[re.Pattern[str], Operation]]] = {}
        """By method, number of slashes and last word, which may be any: forty patterns, one after the other, were a
        twentieth of a log line.
        """
        self._deep: dict[str, list[tuple[re.Pattern[str], Operation]]] = {}
        for one in operations:
            methods = ("GET", "HEAD") if one.method == "GET" else (one.method,)
            for method in methods:
                if "{" in one.path:
                    path = PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(one.path))
                    if one.slashes:
                        pattern = re.compile(f"{path.removesuffix('[^/]+)')}.+)")
                        self._deep.setdefault(method, []).append((pattern, one))
                    else:
                        last = one.path.rpartition("/")[2]
                        place = (method, one.path.count("/"), ANY if "{" in last else last)
                        self._patterns.setdefault(place, []).append((re.compile(path), one))
                else:
                    self._exact[method, one.path] = one

    def about(self, path: str) -> dict[str, Operation]:
        """What this path takes, by method."""
        methods = {method for method, _ in self._exact} | {method for method, *_ in self._patterns} | self._deep.keys()
        found = {method: self.find(method, path) for method in sorted(methods)}
        return {method: one.operation for method, one in found.items() if one is not None}

    def methods(self, path: str) -> list[str]:
        """What is said to take this path: of a path without parameters what stands under its own name."""
        exact = sorted(method for method, known in self._exact if known == path)
        return exact or list(self.about(path))

    def find(self, method: str, path: str) -> Found | None:
        exact = self._exact.get((method, path))
        if exact is not None:
            return Found(exact, {})
        slashes, last = path.count("/"), path.rpartition("/")[2]
        for known in (
            self._patterns.get((method, slashes, last), ()),
            self._patterns.get((method, slashes, ANY), ()),
            self._deep.get(method, ()),
        ):
            for pattern, operation in known:
                match = pattern.fullmatch(path)
                if match is not None:
                    return Found(operation, match.groupdict())
        return None


class Front:
    """Calls the handler of the operation that the gate has found, and turns whatever it raises into a problem."""

    def __init__(self, app: ASGIApp, *, shown: Shown) -> None:
        self._app = app
        self._shown = shown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: Found | None = scope.get(FOUND)
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["path_params"] = found.path_params
        request = Request(scope, receive, send)
        try:
            response = await found.operation.handler(request)
        except Exception as error:  # noqa: BLE001 - a broken request must not take its connection with it
            response = self._shown(request, problems.of(request, error))
            bare(error)
        await response(scope, receive, send)


def wants_page(scope: Scope) -> bool:
    """Whether somebody looks with a browser: at one of our pages, or at what there is none for."""
    fields = fields_of(scope)
    if b"text/html" not in fields.get(b"accept", b"") and b"hx-request" not in fields:
        return False
    found: Found | None = scope.get(FOUND)
    if found is not None:
        return found.operation.page
    return scope["method"] in ("GET", "HEAD") and not scope["path"].startswith("/api/")


class House(FastAPI):
    """FastAPI behind these doors, the outermost first.

    As its middleware they would stand behind layers of its own, one of which asks the environment on every request
    whether somebody wants traces: a seventh of all that a submit cost this process.
    """

    def __init__(self, *, doors: Sequence[Middleware], **options: Any) -> None:
        super().__init__(**options)
        way: ASGIApp = super().__call__
        for door in reversed(doors):
            way = door.cls(way, *door.args, **door.kwargs)
        self._way = way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        scope["app"], scope[DOORS] = self, getattr(self.state, "doors", None)
        await self._way(scope, receive, send)
