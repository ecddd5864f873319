"""Files of the pages: our own and vendored ones, read once, named by what is in them, kept by browsers for good."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from controlplane.errors import NotFound

FOLDER = Path(__file__).parent / "static"
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
FOR_GOOD = "public, max-age=31536000, immutable"
MARK_DIGITS = 12


@dataclass(frozen=True, slots=True)
class File:
    """One file, and the mark by which a changed one has another address."""

    body: bytes
    packed: bytes
    media_type: str
    mark: str


@cache
def files() -> dict[str, File]:
    """By name. What has no type of ours (licences, sums) is not served."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in TYPES:
            body = path.read_bytes()
            mark = hashlib.sha256(body).hexdigest()[:MARK_DIGITS]
            found[path.name] = File(body, gzip.compress(body, mtime=0), TYPES[path.suffix], mark)
    return found


def address(name: str) -> str:
    """Where a page finds this file, seen from the root."""
    return f"static/{files()[name].mark}/{name}"


async def read(request: Request) -> Response:
    """The file, whichever mark it is asked for by: what was deployed a moment ago may ask for the old one."""
    file = files().get(request.path_params["name"])
    if file is None:
        raise NotFound("There is no such file.")
    packs = "gzip" in request.headers.get("accept-encoding", "")
    fresh = request.path_params["mark"] == file.mark
    headers = {"Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if packs else {})
    headers |= {"Cache-Control": FOR_GOOD if fresh else "no-store"}
    return Response(file.packed if packs else file.body, 200, headers, media_type=file.media_type)
