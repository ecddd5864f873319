"""One server to ask. Bodies go out and come in as the bytes they are; every refusal becomes a Failure."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from controlplane import __version__
from controlplane.cli.failure import ExitCode, Failure

PREFIX = "/api/v1"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
REPEAT_SECONDS = 0.5
SUBMIT_TRIES = 3
PAGE = 1000

Members = dict[str, msgspec.Raw]


class Problem(msgspec.Struct):
    """What the server says of a refusal (RFC 9457)."""

    code: str = "error"
    detail: str = ""
    where: str | None = None
    fix: str | None = None


class Unreachable(Failure):
    """Nobody answered, or not in time: the same request may go through a moment later."""

    def __init__(self, what: str, *, fix: str | None = None) -> None:
        super().__init__(what, fix=fix, code=ExitCode.UNREACHABLE)


class Client:
    """A control plane at an address."""

    def __init__(self, server: str, api_key: str | None) -> None:
        self.url = server_url(server)
        headers = {"User-Agent": f"controlplane-cli/{__version__}", "Accept": "application/json"}
        if api_key:
            if not (api_key.isascii() and api_key.isprintable()):
                raise Failure("The API key has characters that no header can carry.", code=ExitCode.AUTH)
            headers["X-API-Key"] = api_key
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not _loopback(self.url),  # a proxy that the environment names does not lead to this machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(
        self,
        path: str,
        query: Mapping[str, str | int | float | list[str] | None] | None = None,
        *,
        about: str | None = None,
        wait_seconds: float = 0.0,
    ) -> bytes:
        """The body of a 200. `about` begins the line of a refusal; `wait_seconds` the server may hold the answer."""
        present = {name: value for name, value in (query or {}).items() if value is not None}
        return self._ask("GET", path, query=present, about=about, wait_seconds=wait_seconds)

    def post(
        self, path: str, body: bytes = b"{}", *, headers: Mapping[str, str] | None = None, about: str | None = None
    ) -> bytes:
        """The body of a 2xx."""
        return self._ask("POST", path, body=body, headers=headers, about=about)

    def put(self, path: str, body: bytes, *, about: str | None = None) -> bytes:
        """The body of a 2xx."""
        return self._ask("PUT", path, body=body, about=about)

    def patch(self, path: str, body: bytes, *, about: str | None = None) -> bytes:
        """The body of a 2xx."""
        return self._ask("PATCH", path, body=body, about=about)

    def delete(self, path: str, *, about: str | None = None) -> bytes:
        """The body of a 2xx."""
        return self._ask("DELETE", path, about=about)

    def submit(self, target: str, body: bytes, *, headers: Mapping[str, str]) -> bytes:
        """Submit once: the body has an idempotency key, so it may be said again when an answer is lost."""
        return self._repeat(f"{PREFIX}/execute/async/{quote(target, safe='')}", body, headers, about=target)

    def submit_batch(self, body: bytes, *, headers: Mapping[str, str]) -> bytes:
        """Submit many once: each has an idempotency key."""
        return self._repeat(f"{PREFIX}/execute/batch", body, headers, about=None)

    def _repeat(self, path: str, body: bytes, headers: Mapping[str, str], *, about: str | None) -> bytes:
        for n in range(1, SUBMIT_TRIES + 1):
            try:
                return self.post(path, body, headers=headers, about=about)
            except Unreachable as error:
                if n == SUBMIT_TRIES or isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout):
                    raise
                time.sleep(REPEAT_SECONDS)
        raise AssertionError("the last try returns or raises")

    def pages(self, path: str, cursor_name: str, *, about: str, page: int = PAGE) -> Iterator[msgspec.Raw]:
        """Every item of a paged list, oldest first."""
        cursor: str | None = None
        while True:
            body = self.get(path, {"limit": page, cursor_name: cursor}, about=about)
            found = msgspec.json.decode(body, type=_Page)
            yield from found.items
            cursor = found.next_cursor
            if cursor is None:
                return

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | float | list[str]] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        about: str | None = None,
        wait_seconds: float = 0.0,
    ) -> bytes:
        timeout = httpx.Timeout(ANSWER_SECONDS + wait_seconds, connect=CONNECT_SECONDS)
        sent = {"Content-Type": "application/json"} if body is not None else {}
        try:
            answer = self._http.request(
                method, path, params=query, content=body, headers=sent | dict(headers or {}), timeout=timeout
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(
                f"No server answers at {self.url} ({_why(error)}).",
                fix="Start one with `controlplane dev`, or name another with --server.",
            ) from error
        except httpx.TransportError as error:
            raise Unreachable(
                f"The server at {self.url} did not answer ({_why(error)}).", fix="Try again; see `controlplane doctor`."
            ) from error
        except httpx.HTTPError as error:
            raise self._stranger(_why(error)) from error
        return self._checked(answer, about)

    def _checked(self, answer: httpx.Response, about: str | None) -> bytes:
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if answer.is_success and kind == "application/json":
            return answer.content
        try:
            if kind not in ("application/problem+json", "application/json"):
                raise self._stranger(f"HTTP {answer.status_code}, {kind or 'no content type'}")
            problem = msgspec.json.decode(answer.content, type=Problem)
        except msgspec.DecodeError:
            raise self._stranger(f"HTTP {answer.status_code}, no readable problem") from None
        raise refusal(answer.status_code, problem, about=about)

    def _stranger(self, seen: str) -> Failure:
        return Failure(
            f"What answers at {self.url} is not a control plane ({seen}).",
            fix="Name the right address with --server or CONTROLPLANE_SERVER.",
            code=ExitCode.UNREACHABLE,
        )


class _Page(msgspec.Struct):
    items: list[msgspec.Raw]
    next_cursor: str | None = None


def server_url(given: str) -> str:
    """The address without what may be left out. Raises Failure where it is none."""
    url = (given if "://" in given else f"http://{given}").rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable:
        raise Failure(
            f"{given!r} is not the address of a server.", fix="Like this: http://localhost:8080.", code=ExitCode.USAGE
        )
    return url


def refusal(status: int, problem: Problem, *, about: str | None = None) -> Failure | Unreachable:
    """The line and the exit code for what a server refused."""
    what = problem.detail or f"The server answered {status}."
    if problem.where is not None and problem.where.startswith(("body.", "query/", "X-", "Idem")):
        what = f"{problem.where}: {what}"
    if about is not None:
        what = f"{about}: {what}"
    if status in (401, 403):
        fix = f"{problem.fix or ''} On the command line: --api-key or CONTROLPLANE_API_KEY.".strip()
        return Failure(what, fix=fix, code=ExitCode.AUTH)
    if status in (408, 429, 502, 503, 504):
        return Unreachable(what, fix=problem.fix)
    if status == 409 or problem.code == "idempotency_conflict":
        code = ExitCode.CONFLICT
    elif status == 404:
        code = ExitCode.NOT_FOUND
    else:
        code = ExitCode.USAGE if status < 500 else ExitCode.INTERNAL
    return Failure(what, fix=problem.fix, code=code)


def members(body: bytes) -> Members:
    """The members of an answer, each as the bytes it came in."""
    return msgspec.json.decode(body, type=Members)


def text_of(found: Members, name: str) -> str | None:
    """A member that is text."""
    raw = found.get(name)
    return None if raw is None else msgspec.json.decode(raw, type=str | None)


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
