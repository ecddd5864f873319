"""Header fields are looked through once, and the first of a name counts."""

from __future__ import annotations

from starlette.requests import Request

from controlplane.api.fields import FIELDS, field, fields_of


def request_with(*headers: tuple[bytes, bytes]) -> Request:
    return Request({"type": "http", "headers": list(headers)})


def test_the_first_counts() -> None:
    """Of two fields with one name the first is believed, as Starlette does."""
    request = request_with((b"x-run-id", b"one"), (b"x-run-id", b"two"))

    assert field(request, b"x-run-id") == "one" == request.headers["x-run-id"]


def test_what_is_not_there() -> None:
    """A field that was not sent is None, an empty one is empty."""
    request = request_with((b"origin", b""))

    assert (field(request, b"origin"), field(request, b"host")) == ("", None)


def test_looked_through_once() -> None:
    """Everybody behind the first who asks gets what he found."""
    request = request_with((b"host", b"localhost"))

    assert fields_of(request.scope) is request.scope[FIELDS] is fields_of(request.scope)
