"""A webhook receiver: verifies the signature over the raw body, is idempotent by execution, keeps what it was told.

python receiver.py PORT FILE
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECRET = os.environ.get("WEBHOOK_SECRET", "whsec_your_signing_secret").encode()


def verify(raw_body: bytes, signature_header: str) -> bool:
    expected = "sha256=" + hmac.new(SECRET, raw_body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, signature_header)


def handle(raw_body: bytes, headers: dict[str, str], seen: set[str]) -> tuple[int, str]:
    if not verify(raw_body, headers.get("X-AgentField-Signature", "")):
        return 401, "bad signature"
    payload = json.loads(raw_body)
    if payload["execution_id"] in seen:
        return 200, "already known"
    seen.add(payload["execution_id"])
    return 200, "ok"


def main(port: int, file: Path) -> None:
    seen: set[str] = set()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw_body = self.rfile.read(int(self.headers["Content-Length"]))
            status, word = handle(raw_body, dict(self.headers), seen)
            with file.open("a") as told:
                told.write(json.dumps({"status": status, "word": word, "body": json.loads(raw_body)}) + "\n")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(word.encode())

        def log_message(self, *_: object) -> None:
            """The file says it all."""

    ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
