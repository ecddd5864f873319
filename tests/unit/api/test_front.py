"""The doors stand before the framework, and what breaks in one of them is answered like everything else."""

from __future__ import annotations

import httpx
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.api.front import House
from controlplane.api.guard import Guard


class Door:
    """Answers /door itself, breaks at /broken, and lets the rest go on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/broken":
            raise LookupError
        answers = PlainTextResponse(type(scope["app"]).__name__) if scope["path"] == "/door" else self._app
        await answers(scope, receive, send)


async def ask(path: str) -> httpx.Response:
    house = House(doors=[Middleware(Guard), Middleware(Door)])
    transport = httpx.ASGITransport(house, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.get(path)


async def test_a_door_answers_before_the_framework() -> None:
    """It knows in whose house it is, as a handler does."""
    assert (await ask("/door")).text == "House"


async def test_the_rest_goes_on_to_the_framework() -> None:
    """What no door knows is FastAPI's."""
    assert (await ask("/openapi.json")).json()["info"]["title"] == "FastAPI"


async def test_a_broken_door_is_a_problem() -> None:
    """Nobody gets a bare 500."""
    answer = await ask("/broken")

    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
