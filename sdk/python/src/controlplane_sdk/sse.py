"""Server-sent events out of a byte stream, as the WHATWG text says: CR, LF or both end a line, nothing else does."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable
from typing import NamedTuple

EVENT_BYTES_MAX = 16 * 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


class Frame(NamedTuple):
    """One event: its data, and the cursor to go on from."""

    data: str
    id: str | None


async def frames(chunks: AsyncIterable[bytes]) -> AsyncGenerator[Frame, None]:
    """The events in the order they come. Raises: ValueError when one is larger than 16 MiB."""
    rest = b""
    data: list[str] = []
    cursor: str | None = None
    async for chunk in chunks:
        rest += chunk
        if len(rest) > EVENT_BYTES_MAX:
            raise ValueError("an event is too large")
        *lines, rest = _LINE_END.split(rest)
        for line in lines:
            name, _, value = line.decode("utf-8", "replace").partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "id" and "\0" not in value:
                cursor = value
            elif not line and data:
                yield Frame("\n".join(data), cursor)
                data = []
