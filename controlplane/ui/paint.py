"""Painting: templates, and what each page has: where the root is, who looks, and what of it a browser gets."""

from __future__ import annotations

import gzip
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import Response

from controlplane import __version__
from controlplane.api.doors import CALLER, asker_of, doors_of
from controlplane.api.front import wants_page
from controlplane.api.problems import MEDIA_TYPE
from controlplane.domain.execution import FINAL, Status
from controlplane.domain.ids import is_execution, made_at
from controlplane.domain.key import KeyScope
from controlplane.domain.notice import moment
from controlplane.ui.files import address

TEMPLATES = Path(__file__).parent / "templates"
PACK_BYTES_MIN = 1_000
NAVIGATION = (
    ("", "overview", "Overview"),
    ("executions", "executions", "Executions"),
    ("reasoners", "reasoners", "Reasoners"),
    ("nodes", "nodes", "Nodes"),
    ("limits", "limits", "Limits"),
    ("schedules", "schedules", "Schedules"),
    ("approvals", "approvals", "Approvals"),
    ("webhooks", "webhooks", "Webhooks"),
    ("settings", "settings", "Settings"),
)
LOGIN = "login"
ACTS = frozenset(KeyScope) - {KeyScope.READ}
KEY_READS = "Your key may look and change nothing: it has the scope read alone."
READ_ONLY = "This dashboard is read-only: use the API, the command line or an SDK."
NOTHING = "\u2013"
ROOT_HEADER = "x-controlplane-root"
EXECUTION = re.compile(r"(exec_[0-9a-z]{26})")
ROOT = re.compile(r"\./|(\.\./){1,8}")
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def root_of(request: Request) -> str:
    """From this page to the root, as a relative address: under whichever path a proxy shows us, it holds.

    A part of a page is told by the script where the page stands that it becomes a part of.
    """
    said = request.headers.get(ROOT_HEADER, "")
    if ROOT.fullmatch(said):
        return said
    return "../" * (request.scope["path"].count("/") - 1) or "./"


def paint(request: Request, template: str, status: int = 200, **shown: Any) -> Response:
    """The page of a template. Nothing in it is kept by a browser, and a browser that can unpack gets it packed."""
    known = CALLER in request.scope
    caller = asker_of(request)
    doors = doors_of(request)
    text = (
        _environment()
        .get_template(template)
        .render(
            root=root_of(request),
            navigation=NAVIGATION,
            caller=caller if known else None,
            closed=doors.entrance.closed,
            scopes=caller.scopes if known else frozenset[KeyScope](),
            public_url=doors.public_url,
            read_only=READ_ONLY if doors.ui_read_only else "",
            looks_only=READ_ONLY if doors.ui_read_only else KEY_READS if known and not caller.may(ACTS) else "",
            now=moment(made_at(doors.ids.new(0))),
            version=__version__,
            **shown,
        )
    )
    body = text.encode("utf-8", "replace")
    headers = {"Vary": "Accept-Encoding"}
    if len(body) >= PACK_BYTES_MIN and "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["Content-Encoding"] = gzip.compress(body, 5, mtime=0), "gzip"
    return Response(body, status, headers, media_type="text/html")


def shown(request: Request, response: Response) -> Response:
    """A refusal as a page, for whoever looks with a browser; who has not signed in is asked to."""
    if not wants_page(request.scope) or response.media_type != MEDIA_TYPE:
        return response
    problem = msgspec.json.decode(bytes(response.body))
    fragment = "hx-request" in request.headers
    if response.status_code == 401 and doors_of(request).entrance.closed:
        query = request.scope["query_string"].decode("latin-1")
        here = request.scope["path"].lstrip("/") + (f"?{query}" if query else "")
        where = f"{root_of(request)}{LOGIN}?{_query(here)}"
        headers = {"HX-Redirect": where} if fragment else {"Location": where}
        return Response(b"", 401 if fragment else 303, headers)
    page = paint(request, "refused_part.html" if fragment else "refused.html", response.status_code, problem=problem)
    for name in ("retry-after", "allow"):
        if name in response.headers:
            page.headers[name] = response.headers[name]
    return page


def _query(here: str) -> str:
    return urlencode({"next": here})


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals |= {"file": address, "final": [one.value for one in FINAL], "statuses": [one.value for one in Status]}
    made.filters |= {
        "duration": duration,
        "bytes": size,
        "tail": lambda id_: id_[-8:],
        "seconds": seconds_between,
        "count": count,
        "linked": linked,
    }
    return made


def duration(milliseconds: float | None) -> str:
    """Two units at most: 8 ms, 3.2 s, 4 min 10 s, 2 d 3 h."""
    if milliseconds is None:
        return NOTHING
    if milliseconds < 1_000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1_000
    if seconds < 60:
        return f"{seconds:.1f} s"
    for at, (unit, word) in enumerate(UNITS):
        if seconds >= unit:
            smaller, small_word = UNITS[at + 1] if at + 1 < len(UNITS) else (1, "s")
            whole, rest = int(seconds // unit), int(seconds % unit // smaller)
            return f"{whole} {word} {rest} {small_word}" if rest else f"{whole} {word}"
    return f"{seconds:.0f} s"


def seconds_between(later: str, earlier: str | None) -> float:
    """From one moment of the wire to another."""
    if not earlier or not later:
        return 0.0
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def size(count_bytes: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count_bytes < 1024:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes = count_bytes / 1024  # type: ignore[assignment]
    return f"{count_bytes:.1f} GiB"


def linked(text: str) -> list[tuple[str, bool]]:
    """The pieces of a sentence, and which of them are ids of executions."""
    return [(piece, is_execution(piece)) for piece in EXECUTION.split(text) if piece]


def count(number: int) -> str:
    """Thousands apart."""
    return f"{number:,}".replace(",", "\u202f")
