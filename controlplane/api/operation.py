"""One line per route: what it is called, what it takes and what it answers. Routes and OpenAPI are made from it.

Requests are routed by `front.py`, past FastAPI's own per-request machinery, with which a submit cost twice as much; so
the schema of a route is said here, explicitly. So is the scope that a key needs for it, which nothing stands in for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from controlplane.domain.key import KeyScope

Handler = Callable[[Request], Awaitable[Response]]

OPEN: frozenset[KeyScope] = frozenset()
"""For everybody, also without a key."""
EXECUTE = frozenset({KeyScope.EXECUTE})
READ = frozenset({KeyScope.READ})
OPERATE = frozenset({KeyScope.OPERATE})
ADMIN = frozenset({KeyScope.ADMIN})
NODE = frozenset({KeyScope.NODE})
EXECUTE_OR_OPERATE = EXECUTE | OPERATE
NOTHING = ""
"""`audit` of what is no GET and yet changes nothing."""
EXECUTE_OR_NODE = EXECUTE | NODE
READ_OR_NODE = READ | NODE
OPERATE_OR_NODE = OPERATE | NODE


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`scope`: a key needs one of these. `takes`: the form of the body. `query` and `headers`: name → what it means.

    `answers`: status → when. `streams`: a browser reads it, which can send its key in no header but as `?api_key=`.
    `slashes`: the parameter at the end of the path may hold some. `audit`: what the audit log calls it; without that no
    operation with the scope operate or admin changes anything. `reveals`: it names an address that payloads are sent
    to, or finds by what is in them, and so is not for a key that hides them. `page`: people look at it and at its
    refusals, and what it shows of payloads it has asked for as its reader would. `gives_way`: it may be lost, and goes
    after others.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    scope: frozenset[KeyScope]
    takes: type | None = None
    slashes: bool = False
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[int, str] = field(default_factory=lambda: {200: "Done."})
    streams: bool = False
    audit: str | None = None
    page: bool = False
    gives_way: bool = False

    def __post_init__(self) -> None:
        if self.method != "GET" and self.audit is None and self.scope & (OPERATE | ADMIN):
            raise ValueError(f"{self.method} {self.path}: say what the audit log calls it, or NOTHING")

    reveals: bool = False


def install(app: FastAPI, operations: list[Operation]) -> None:
    """Let FastAPI's router know each, too: it answers a wrong method and a trailing slash."""
    for one in operations:
        path = f"{one.path.removesuffix('}')}:path}}" if one.slashes else one.path
        app.router.routes.append(Route(path, one.handler, methods=[one.method], include_in_schema=False))
