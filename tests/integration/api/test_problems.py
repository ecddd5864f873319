"""Errors over HTTP: one form for all of them, and nothing said back."""

from __future__ import annotations

import gc

import pytest

from controlplane.app import OPERATIONS
from controlplane.errors import ControlPlaneError
from tests.integration.api.rawhttp import Ask, connected
from tests.integration.api.serving import Api

FORM = {"type", "title", "status", "detail", "error", "message"}


@pytest.mark.parametrize(
    "path", ["/nothing", "/api", "/api/v1/nothing", "/api/v1/executions/a/b/c", "/API/V1/NODES", "/%00"]
)
async def test_a_path_that_does_not_exist(shared: Api, path: str) -> None:
    """404 in the form of every error, and quickly: AgentField's SDK tries paths we do not have."""
    answer = await shared.client.get(path)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().keys() >= FORM
    assert answer.json()["fix"].endswith("GET /openapi.json lists every path.")


async def test_a_method_that_a_path_does_not_take(shared: Api) -> None:
    """405 with those that it takes, on every path."""
    for path in {one.path for one in OPERATIONS}:
        taken = {one.method for one in OPERATIONS if one.path == path}
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - taken:
            answer = await shared.client.request(method, path.replace("{", "").replace("}", ""))
            if method in ("GET", "DELETE") and answer.status_code != 405:  # another route takes it, as an id or a key
                continue

            assert answer.status_code == 405, (method, path)
            assert answer.json().keys() >= FORM
            assert answer.headers["allow"]


async def test_every_get_answers_head(shared: Api) -> None:
    """The same head without a body; a stream's, too."""
    async with connected(shared.host, shared.port) as line:
        for one in OPERATIONS:
            if one.method == "GET":
                path = one.path.replace("{", "").replace("}", "")
                answer = await line.ask(Ask("HEAD", path))
                line.close()  # a stream goes on behind its head

                assert answer.status in (200, 404, 422), path


def errors_left() -> int:
    return sum(isinstance(one, ControlPlaneError) for one in gc.get_objects())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/execute/async/no.such", {"input": 1}),
        ("/memory/append", {"key": "left", "scope": "global", "items": [1]}),
        ("/memory/set", {"key": "left", "data": 1, "scope": "nope"}),
        ("/execute/batch", {"items": [{"target": "no.such", "input": 1}, {"target": "", "input": 1}, {"nope": 1}]}),
        (
            "/memory/write",
            {"writes": [{"ops": [{"op": "append", "key": "left", "scope": "global", "items": [1]}]}] * 2},
        ),
    ],
)
async def test_what_was_refused_is_let_go(shared: Api, path: str, body: object) -> None:
    """With all that was asked, which may be large: not only when the collector comes by."""
    await shared.post("/memory/set", {"key": "left", "data": "no list", "scope": "global"})
    gc.collect()
    gc.disable()
    try:
        before = errors_left()
        for _ in range(20):
            await shared.post(path, body)
        left = errors_left() - before
    finally:
        gc.enable()

    assert left < 20


async def test_a_form_says_what_it_wants(shared: Api) -> None:
    """The place, the type that is wanted, the fields that there are, and the nearest to one that is not."""
    wrong = (await shared.post("/memory/set", {"key": 5, "data": 1})).json()
    missing = (await shared.post("/memory/set", {"data": 1})).json()
    deep = (await shared.post("/memory/write", {"writes": [{"ops": [{"op": "set", "key": 1}]}]})).json()
    unknown = (await shared.post("/execute/async/x.y", {})).json()

    assert (wrong["where"], wrong["detail"]) == ("body.key", "Expected `str`, got `int`.")
    assert missing["detail"] == "Object missing required field `key`."
    assert deep["where"] == "body.writes[0].ops[0].key"
    assert unknown["fix"] == "Start a node that serves it; GET /api/v1/reasoners."


async def test_a_word_that_may_not_stand_there(shared: Api) -> None:
    """It is not said back; where the right ones are listed is."""
    body = {"writes": [{"ops": [{"op": "<b>burn</b>", "key": "k"}]}]}

    answer = (await shared.post("/memory/write", body)).json()

    assert "burn" not in str(answer)
    assert answer["where"] == "body.writes[0].ops[0].op"
    assert "/openapi.json" in answer["fix"]


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=x"],
)
async def test_a_body_is_json_whatever_it_is_called(shared: Api, content_type: str) -> None:
    """curl -d says that it is a form."""
    answer = await shared.client.post(
        "/api/v1/memory/set", content=b'{"key":"k","data":1}', headers={"Content-Type": content_type}
    )

    assert answer.status_code == 200
