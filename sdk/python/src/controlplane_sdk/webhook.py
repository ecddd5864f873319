"""Is this webhook really from the control plane? Both signatures it sends, checked over the raw body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Mapping

TOLERANCE_SECONDS = 300
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_KEY_BYTES = range(24, 65)
_SIGNATURES_MAX = 32


def verify(raw_body: bytes, header: str | None, secret: str | bytes) -> bool:
    """Whether `X-AgentField-Signature` (`sha256=<hex>`) fits the raw body. Never raises.

    The raw bytes, not parsed and written again: that changes them. It says nothing about when it was sent; a receiver
    is idempotent by `execution_id`, or uses `verify_standard`.
    """
    if not isinstance(raw_body, bytes | bytearray | memoryview) or not isinstance(header, str):
        return False
    if not (key := _bytes(secret)):
        return False
    expected = "sha256=" + hmac.new(key, raw_body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), header.encode("utf-8", "replace"))


def verify_standard(
    raw_body: bytes,
    headers: Mapping[str, str],
    secret: str | bytes,
    tolerance_seconds: float = TOLERANCE_SECONDS,
    *,
    now: float | None = None,
) -> bool:
    """Whether the Standard Webhooks headers (`webhook-id`, `-timestamp`, `-signature`) fit the raw body. Never raises.

    Refuses what was signed more than `tolerance_seconds` ago or ahead: a recorded request cannot be played again later.
    """
    if not isinstance(raw_body, bytes | bytearray | memoryview):
        return False
    found = _named(headers)
    id_, at, signatures = (found.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    key = standard_key(secret)
    if not id_ or not key or not _TIMESTAMP.fullmatch(at):
        return False
    if abs((time.time() if now is None else now) - int(at)) > tolerance_seconds:
        return False
    signed = b".".join([id_.encode("utf-8", "replace"), at.encode(), bytes(raw_body)])
    expected = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    # All are compared, so that the time taken does not tell which one fits.
    fits = [
        hmac.compare_digest(expected, one.encode("utf-8", "replace")) for one in signatures.split(" ")[:_SIGNATURES_MAX]
    ]
    return any(fits)


def standard_key(secret: str | bytes) -> bytes:
    """The key of the Standard Webhooks signature: what stands after `whsec_` (which may be missing) if that is strict
    base64 of 24 to 64 bytes, else the secret itself."""
    key = _bytes(secret)
    encoded = key.removeprefix(b"whsec_")
    try:
        decoded = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return key
    return decoded if len(decoded) in _KEY_BYTES and base64.b64encode(decoded) == encoded else key


def _bytes(secret: object) -> bytes:
    if isinstance(secret, str):
        return secret.encode("utf-8", "replace")
    return secret if isinstance(secret, bytes) else b""


def _named(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        return {}
    return {name.lower(): value for name, value in headers.items() if isinstance(name, str) and isinstance(value, str)}
