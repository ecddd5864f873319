"""A receiver of webhooks: it writes down what it hears before it answers, and then answers well or badly.

SIGUSR1: from here on it answers well.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import random
import signal
import time
from pathlib import Path

from tests.chaos.journal import Journal
from tests.chaos.work import SECRET

MOODS = {"well": 850, "error": 60, "hangs": 25, "drips": 20, "lies": 20, "garbage": 10, "cuts": 10, "busy": 5}
"""Of a thousand answers so many. `lies`: 200, and the connection is gone before the body is."""
HANGS_SECONDS = 4.0
DRIP_SECONDS = 0.2
WELL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WORDS = {
    "well": WELL,
    "error": b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno",
    "lies": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this",
    "garbage": b"\x00\xff this is no HTTP \r\n\r\n",
    "busy": b"HTTP/1.1 429 Later\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
}


class Receiver:
    def __init__(self, journal: Journal, rng: random.Random) -> None:
        self._journal = journal
        self._rng = rng
        self._well = False

    def calm(self) -> None:
        self._well = True

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever sent it was killed
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Hear one webhook. Says whether the connection may bring another one."""
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")[1:]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        signed = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        good = hmac.compare_digest(f"sha256={signed}", headers.get("x-agentfield-signature", ""))
        await self._journal.write(
            "heard", headers.get("webhook-id"), hashlib.sha256(body).hexdigest(), good, time.time(), body.decode()
        )
        mood = "well" if self._well else self._rng.choices(list(MOODS), list(MOODS.values()))[0]
        if mood == "hangs":
            await asyncio.sleep(HANGS_SECONDS)
        if mood == "drips":
            for byte in WELL:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(DRIP_SECONDS)
        writer.write(WORDS.get(mood, b""))
        await writer.drain()
        return mood in {"well", "error", "busy"}


async def main() -> None:
    receiver = Receiver(Journal(Path(os.environ["CHAOS_JOURNAL"])), random.Random(int(os.environ["CHAOS_SEED"])))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, receiver.calm)
    server = await asyncio.start_server(receiver.talk, "127.0.0.1", int(os.environ["CHAOS_PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
