"""Around every answer: its id, the headers for browsers, and who may be called from which page."""

from __future__ import annotations

import re

import httpx
import orjson
import pytest

from controlplane.api.guard import HEADERS, PAGE_POLICY, Guard
from controlplane.app import OPERATIONS
from tests.integration.api.rawhttp import Ask, connected
from tests.integration.api.serving import Api, the_problem

MADE = re.compile(r"req_[0-9a-f]{32}")
PAGE = "https://console.example:8443"


async def test_every_answer_has_an_id_and_the_headers(shared: Api) -> None:
    """Those of routes, of paths that do not exist, of wrong methods, and those that are refused."""
    async with connected(shared.host, shared.port) as line:
        for method, path in [*((one.method, one.path) for one in OPERATIONS), ("GET", "/nothing"), ("BREW", "/livez")]:
            answer = await line.ask(Ask(method, path.replace("{", "").replace("}", ""), b"!" * (method != "GET")))
            line.close()  # a stream goes on behind its head
            for name, value in HEADERS:
                assert answer.headers[name.decode()] == value.decode() or name == b"cache-control", path
            if answer.refused_as_http:  # it was no request
                continue
            assert MADE.fullmatch(answer.headers["x-request-id"]), path
            if answer.headers.get("content-type") == "application/problem+json":
                assert orjson.loads(answer.body or b"")["request_id"] == answer.headers["x-request-id"], path


@pytest.mark.parametrize("given", ["a", "0f8fad5b-d9cb-469f-a165-70867728950e", "x" * 128, "A.b_c:d-1"])
async def test_an_id_that_is_brought_along_is_kept(shared: Api, given: str) -> None:
    """So that a request can be followed through all who handed it on."""
    answer = await shared.client.get("/api/v1/executions/nobody", headers={"X-Request-ID": given})

    assert answer.headers["x-request-id"] == given == answer.json()["request_id"]


@pytest.mark.parametrize("given", ["", "-a", "a b", 'a"b', "a\tb", "x" * 129, "<script>", "é".encode()])
async def test_an_id_that_is_not_well_formed_is_replaced(shared: Api, given: str | bytes) -> None:
    """It is not said back."""
    answer = await shared.client.get("/api/v1/executions/nobody", headers={"X-Request-ID": given})

    assert MADE.fullmatch(answer.headers["x-request-id"])
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


async def test_a_page_has_a_policy_of_its_own() -> None:
    """It may load and run its own files, and nothing that is written into it; what it says itself stands."""

    async def page(scope: object, receive: object, send: object) -> None:
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"<p>"})  # type: ignore[operator]

    async with httpx.AsyncClient(transport=httpx.ASGITransport(Guard(page)), base_url="http://x") as client:  # type: ignore[arg-type]
        answer = await client.get("/")

    assert answer.headers["content-security-policy"] == PAGE_POLICY.decode()
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "max-age=60"


async def test_no_page_may_read_by_default(shared: Api) -> None:
    """Whatever its origin: no answer says that it may, and no question before it is answered with yes."""
    for origin in ("https://evil.example", "http://localhost:3000", "null"):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for answer in (
            await shared.client.get("/api/v1/nodes", headers={"Origin": origin}),
            await shared.client.options("/api/v1/memory/set", headers=asked),
        ):
            assert not [name for name in answer.headers if name.startswith("access-control")]


ALLOWING = pytest.mark.parametrize("settings", [{"api_key": "k", "cors_origins": (PAGE,)}], ids=["a page"])


@ALLOWING
async def test_a_page_that_is_allowed_may_call(api: Api) -> None:
    """It asks before without a key, and then calls with one; cookies are never wanted."""
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    async with httpx.AsyncClient(trust_env=False) as browser:
        before = await browser.options(f"{api.url}/api/v1/memory/set", headers=asked)
    answer = await api.client.get("/api/v1/nodes", headers={"Origin": PAGE})

    assert (before.status_code, answer.status_code) == (200, 200)
    assert "x-api-key" in before.headers["access-control-allow-headers"].lower()
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers


@ALLOWING
@pytest.mark.parametrize("origin", ["https://console.example", f"{PAGE}.evil.example", "http://console.example:8443"])
async def test_other_pages_may_not(api: Api, origin: str) -> None:
    """An origin is allowed by its whole name; the key is still wanted of everybody."""
    answer = await api.client.get("/api/v1/nodes", headers={"Origin": origin})
    keyless = await api.client.get("/api/v1/nodes", headers={"Origin": PAGE, "X-API-Key": "wrong"})

    assert "access-control-allow-origin" not in answer.headers
    the_problem(keyless, 401, "unauthorized")


@pytest.mark.parametrize("twice", [b'{"key":"twice","data":1,"data":2}', b'{"key":"x","key":"twice","data":2}'])
async def test_the_last_of_two_fields_of_one_name_counts(shared: Api, twice: bytes) -> None:
    """As in nearly every reader of JSON; inside a payload both are kept as they came."""
    answer = await shared.client.post("/api/v1/memory/set", content=twice)
    kept = await shared.client.post("/api/v1/memory/set", content=b'{"key":"kept","data":{"a":1,"a":2}}')

    assert (answer.json()["key"], answer.json()["data"]) == ("twice", 2)
    assert b'{"a":1,"a":2}' in kept.content
