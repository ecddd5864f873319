"""The gate: a key where there is one, and otherwise only this machine, by its own name."""

from __future__ import annotations

import httpx
import pytest
import websockets

from controlplane.api.links import PREFIX
from controlplane.app import OPERATIONS
from tests.integration.api.rawhttp import Ask, connected
from tests.integration.api.serving import Api, the_problem

OPEN = {"/livez", "/readyz", "/health", "/api/v1/health"}
KEYED = pytest.mark.parametrize("settings", [{"api_key": "k-1"}], ids=["with a key"])
STREAM = "/api/ui/v1/executions/events"
SOCKETS = ["/api/ui/v1/executions/ws", "/api/ui/v1/executions/exec_00000000000000000000000000/ws"]


WRONG: list[dict[str, str | bytes]] = [
    {},
    {"X-API-Key": "k-2"},
    {"X-API-Key": "k"},
    {"X-API-Key": "K-1"},
    {"X-API-Key": b"k-1\xff"},
    {"Authorization": "Bearer k-2"},
    {"Authorization": "Basic k-1"},
    {"Authorization": "k-1"},
    {"Authorization": "Bearer"},
]


@KEYED
async def test_every_route_wants_the_key(api: Api) -> None:
    """Without the right key every route but health and links answers 401, before anything else is looked at."""
    del api.client.headers["X-API-Key"]
    routes = [(one.method, one.path.replace("{", "").replace("}", "")) for one in OPERATIONS]
    routes += [("GET", path) for path in ("/openapi.json", "/nothing", "/docs", "/livez/x", "//livez", "/LIVEZ")]
    for wrong in WRONG:
        for method, path in routes:
            answer = await api.client.request(method, path, headers=wrong)
            if path in OPEN:
                assert answer.status_code == 200
            elif path.startswith(PREFIX):  # the link is the key
                the_problem(answer, 404, "no_approval_request")
            else:
                the_problem(answer, 401, "unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"


@KEYED
async def test_the_wrong_key_is_not_said_back(api: Api) -> None:
    """Nor is the right one."""
    answer = await api.client.get("/api/v1/nodes", headers={"X-API-Key": "guessed-this"})

    assert "guessed" not in answer.text
    assert "k-1" not in answer.text


@KEYED
@pytest.mark.parametrize(
    "headers", [{"X-API-Key": "k-1"}, {"Authorization": "Bearer k-1"}, {"Authorization": "bearer  k-1"}], ids=str
)
async def test_the_key_opens(api: Api, headers: dict[str, str]) -> None:
    """Either header will do, and for browsers' streams the query; then any name of the server is good."""
    del api.client.headers["X-API-Key"]

    assert (await api.client.get("/api/v1/nodes", headers=headers)).status_code == 200
    assert (await api.client.get("/api/v1/nodes", headers=headers | {"Host": "plane.example"})).status_code == 200
    for key, status in (("k-1", 200), ("k-2", 401)):
        async with api.client.stream("GET", STREAM, params={"api_key": key}) as stream:
            assert stream.status_code == status
        assert (await api.client.get("/api/v1/nodes", params={"api_key": key})).status_code == 401


@pytest.mark.parametrize("settings", [{"api_key": "schlüssel-✓"}], ids=["unicode"])
async def test_a_key_may_be_any_text(api: Api) -> None:
    """As UTF-8, in a header or in the query."""
    del api.client.headers["X-API-Key"]
    key = "schlüssel-✓"

    answers = [
        await api.client.get("/api/v1/nodes", headers={"X-API-Key": key.encode()}),
        await api.client.get("/api/v1/nodes", headers={"Authorization": b"Bearer " + key.encode()}),
    ]
    async with api.client.stream("GET", STREAM, params={"api_key": key}) as stream:
        assert stream.status_code == 200

    assert [answer.status_code for answer in answers] == [200, 200]


@KEYED
@pytest.mark.parametrize("path", SOCKETS)
async def test_a_socket_wants_the_key(api: Api, path: str) -> None:
    """The handshake is refused without it."""
    url = f"ws://{api.host}:{api.port}{path}"
    for wrong in ({}, {"X-API-Key": "k-2"}):
        with pytest.raises(websockets.InvalidStatus) as refused:
            await websockets.connect(url, additional_headers=wrong, proxy=None)
        assert refused.value.response.status_code == 403


@KEYED
async def test_a_socket_opens_with_the_key(api: Api) -> None:
    """In a header, or in the query, which is all that a browser can set."""
    url = f"ws://{api.host}:{api.port}{SOCKETS[0]}"

    async with websockets.connect(url, additional_headers={"X-API-Key": "k-1"}, proxy=None) as socket:
        assert "connected" in str(await socket.recv())
    async with websockets.connect(f"{url}?api_key=k-1", proxy=None) as socket:
        assert "connected" in str(await socket.recv())


FOREIGN = [
    {"Host": "evil.test"},
    {"Host": "evil.test:8080"},
    {"Host": "127.0.0.1.evil.test"},
    {"Host": "localhost.evil.test"},
    {"Host": "evil.test:localhost"},
    {"Host": "localhost@evil.test"},
    {"Host": "localhost,evil.test"},
    {"Host": "169.254.169.254"},
    {"Host": "[::2]"},
    {"Host": ""},
    {"Origin": "http://evil.test"},
    {"Origin": "http://evil.test:localhost"},
    {"Origin": "http://localhost.evil.test"},
    {"Origin": "localhost"},
    {"Origin": "null"},
    {"Origin": ""},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_without_a_key_only_this_machine(shared: Api, headers: dict[str, str]) -> None:
    """A foreign page cannot reach a developer's server through the developer's browser."""
    the_problem(await shared.client.get("/api/v1/nodes", headers=headers), 401, "unauthorized")
    assert (await shared.client.get("/livez", headers=headers)).status_code == 200


@pytest.mark.parametrize("path", SOCKETS[:1])
async def test_without_a_key_no_foreign_socket(shared: Api, path: str) -> None:
    """A page may open a socket to anywhere, but it says where it comes from."""
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"ws://{shared.host}:{shared.port}{path}", origin="http://evil.test", proxy=None)

    assert refused.value.response.status_code == 403


async def test_this_machine_has_several_names(shared: Api) -> None:
    """With a port and without, in any case; and a client of HTTP/1.0 says none at all."""
    for name in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]"):
        for port in ("", f":{shared.port}", ":1"):
            headers = {"Host": name + port, "Origin": f"http://{name}{port}"}
            assert (await shared.client.get("/api/v1/nodes", headers=headers)).status_code == 200, headers
    async with connected(shared.host, shared.port) as line:
        old = await line.send(Ask("GET", "/api/v1/nodes", host=None).raw().replace(b"HTTP/1.1", b"HTTP/1.0"))

    assert old.status == 200


async def test_a_key_that_nobody_asked_for_is_left_alone(shared: Api) -> None:
    """A caller that is set up for a server with a key works with one without."""
    assert isinstance(shared.client, httpx.AsyncClient)
    assert (await shared.client.get("/api/v1/nodes", headers={"X-API-Key": "any"})).status_code == 200
