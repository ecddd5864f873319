"""What a connection may cost before anything of it is a request, and while its answer goes out."""

from __future__ import annotations

from dataclasses import dataclass

FIELDS_MAX = 100
"""Header fields of one request, and trailer fields of one chunked body."""

SURPLUS_MAX = 128
"""Connections beyond the most that may still ask: health is answered, the others hear that it is full."""

READER_BYTES_PER_SECOND_MIN = 512
"""What a reader takes at least of an answer that waits for it; a slower one would keep it in memory for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WireLimits:
    """`head_seconds`: from the first byte of a request to the end of its head, and until a body's rate counts.

    `body_seconds`: from the end of the head to the end of the body. What this server does not want to read yet is not
    counted. `stalled_seconds`: how often a reader who does not keep up is looked at. `message_bytes_max`: of a message
    of a WebSocket.
    """

    head_seconds: float
    head_bytes_max: int
    body_seconds: float
    body_bytes_per_second_min: int
    stalled_seconds: float
    connections_max: int
    message_bytes_max: int
