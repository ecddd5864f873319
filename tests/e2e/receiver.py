"""Two servers of the outside world: a webhook receiver, and a language model that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

SECRET = "whsec_your_signing_secret"
HANGS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Heard:
    """One request, and what it was answered."""

    headers: dict[str, str]
    raw_body: bytes
    status: int
    word: str

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.raw_body))

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]


class Outside:
    """A server in a thread of this process, on a port of its own. `hold` makes it hang, `let_go` answer."""

    def __init__(self) -> None:
        self._going = threading.Event()
        self._going.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.outside = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def hold(self) -> None:
        self._going.clear()

    def let_go(self) -> None:
        self._going.set()

    def answer(self, raw_body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        raise NotImplementedError

    def wait_until_let_go(self) -> None:
        self._going.wait(HANGS_SECONDS)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._going.set()
        self._server.shutdown()
        self._server.server_close()


class Receiver(Outside):
    """Takes webhooks as a user would, and keeps what it heard."""

    handlers: ClassVar[str] = (Path(__file__).parent / "seed_receiver.py").read_text()

    def __init__(self, secret: str = SECRET) -> None:
        super().__init__()
        self.heard: list[Heard] = []
        self._names: dict[str, Any] = {}
        exec(self.handlers, self._names)
        self._names["SECRET"] = secret.encode()
        self.webhook = {"url": f"{self.url}/hooks/agentfield", "secret": secret}

    def answer(self, raw_body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        status, word = self._names["handle"](raw_body, headers)
        self.heard.append(Heard(headers, raw_body, status, word))
        self.wait_until_let_go()
        return status, str(word).encode()

    def about(self, execution_id: str) -> list[Heard]:
        return [heard for heard in self.heard if heard.body["execution_id"] == execution_id]


class Model(Outside):
    """Answers every chat completion with a summary of what the user said."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.env = {"OPENAI_API_KEY": "any", "OPENAI_BASE_URL": f"{self.url}/v1"}

    def answer(self, raw_body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        request = json.loads(raw_body)
        said = {message["role"]: message["content"] for message in request["messages"]}
        self.asked[said["user"]] += 1
        self.wait_until_let_go()
        completion = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": f"{said['system']} {said['user']}"},
                }
            ],
        }
        return 200, json.dumps(completion).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw_body = self.rfile.read(int(self.headers["Content-Length"]))
        status, answer = self.server.outside.answer(raw_body, dict(self.headers))
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        except ConnectionError:  # whoever asked was killed meanwhile
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """What was heard is kept; nothing is printed."""
