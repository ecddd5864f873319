"""Every error has a status, and every route stands in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.requests import Request

from controlplane import errors
from controlplane.api import openapi, problems
from controlplane.api.problems import REQUEST_ID, STATUS_OF
from controlplane.app import OPERATIONS


def kinds(kind: type[errors.ControlPlaneError]) -> Iterator[type[errors.ControlPlaneError]]:
    yield kind
    for one in kind.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from kinds(one)


def test_every_error_has_a_status() -> None:
    """The table of problems lacks none of the tree, and nothing else is in it."""
    assert set(STATUS_OF) == set(kinds(errors.ControlPlaneError))


def test_every_code_names_one_error() -> None:
    """A program can switch on the code."""
    codes = [kind.code for kind in STATUS_OF]

    assert len(codes) == len(set(codes))


def test_every_route_is_documented() -> None:
    """Each operation is in /openapi.json with an id of its own and an answer that is no error."""
    paths = openapi.document(OPERATIONS)["paths"]
    described = [paths[one.path][one.method.lower()] for one in OPERATIONS]

    assert len({one["operationId"] for one in described}) == len(OPERATIONS)
    assert all(min(one["responses"]) < "400" for one in described)


def test_the_log_says_the_id(caplog: pytest.LogCaptureFixture) -> None:
    """Of what broke in here: nothing else leads from the answer to it."""
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [], REQUEST_ID: "seen-again"})

    answer = problems.of(request, KeyError("inside"))

    assert [one.__dict__["request_id"] for one in caplog.records] == ["seen-again"]
    assert b"inside" not in answer.body
