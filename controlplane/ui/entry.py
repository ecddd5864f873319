"""Signing in and out: a key once, and then a cookie (`api/signin.py`)."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import signin
from controlplane.api.body import read_body
from controlplane.api.doors import doors_of
from controlplane.api.fields import fields_of
from controlplane.errors import Malformed, Unauthorized
from controlplane.ui.paint import paint

FORM_BYTES_MAX = 4_096
SCRIPT_NEEDED = "This is sent by the script of the page, which did not run."
NO_KEY = "There is no key yet: every page is open to this machine."


async def show(request: Request) -> Response:
    """The page that asks for a key."""
    return paint(request, "login.html", title="Sign in")


async def begin(request: Request) -> Response:
    """The cookie for a key. Without our header a page of somebody else may have sent the form.

    Raises: Unauthorized, RateLimited, Malformed.
    """
    if signin.PAGE_HEADER not in fields_of(request.scope):
        raise Unauthorized(SCRIPT_NEEDED, fix="Open the page again, and let its script run.")
    raw = await read_body(request, FORM_BYTES_MAX)
    try:
        key = parse_qs(raw.decode(), max_num_fields=4).get("key", [""])[0].strip()
    except (UnicodeDecodeError, ValueError):
        raise Malformed("Not a form.", where="body") from None
    host = request.client.host if request.client else ""
    found = await signin.begin(doors_of(request), key, host=host)
    answer = Response(status_code=204)
    if found is not None:
        _, value = found
        _cookie(request, answer, value, signin.SIGNED_IN_SECONDS)
    return answer


async def end(request: Request) -> Response:
    """The browser forgets the cookie. A copy of it would still be one, until its key is revoked or it is too old."""
    answer = Response(status_code=204)
    _cookie(request, answer, "", 0)
    return answer


def _cookie(request: Request, answer: Response, value: str, seconds: int) -> None:
    """For the folder that a browser sees this in (no `Path`), which behind a proxy may be another than ours is."""
    secure = fields_of(request.scope).get(b"origin", b"").startswith(b"https://")
    answer.set_cookie(signin.COOKIE, value, max_age=seconds, path=None, httponly=True, samesite="lax", secure=secure)
