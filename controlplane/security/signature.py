"""Sign what we send and verify what we are sent. Two schemes stand side by side on every webhook.

`X-AgentField-Signature: sha256=<hex>` is HMAC-SHA256 over the raw body; the key is the secret, letter by letter.
`webhook-signature: v1,<base64>` is the Standard Webhooks scheme over `id.timestamp.body`; `standard_key` has its key.
A verifier answers False to anything it cannot read; it never raises.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from secrets import token_bytes

TOLERANCE_SECONDS = 300
_PREFIX = "whsec_"
_KEY_BYTES = range(24, 64 + 1)
_SIGNATURES_MAX = 32
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


def sign_agentfield(secret: str, body: bytes) -> str:
    """The value of `X-AgentField-Signature` for exactly these bytes."""
    return "sha256=" + hmac.digest(secret.encode(), body, hashlib.sha256).hex()


def verify_agentfield(secret: str, body: bytes, signature: str | None) -> bool:
    """Whether `signature` was made from these bytes with this secret."""
    try:
        expected = sign_agentfield(secret, body)
    except UnicodeEncodeError:
        return False
    return _same(expected, signature or "")


def standard_key(secret: str) -> bytes:
    """The key of the Standard Webhooks scheme: what stands after `whsec_`, if it is strict base64 of 24 to 64 bytes.

    Any other secret is its own key, as UTF-8, prefix included. The prefix may be missing, as in the public libraries.
    """
    encoded = secret.removeprefix(_PREFIX)
    try:
        key = b64decode(encoded, validate=True)
    except (Base64Error, ValueError):  # ValueError: letters outside ASCII
        return secret.encode()
    strict = len(key) in _KEY_BYTES and b64encode(key).decode() == encoded
    return key if strict else secret.encode()


def sign_standard(secret: str, *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """One signature for `webhook-signature`. Join several by a space while a secret is being changed."""
    signed = b"%s.%d.%s" % (webhook_id.encode(), timestamp, body)
    return "v1," + b64encode(hmac.digest(standard_key(secret), signed, hashlib.sha256)).decode()


def signed_headers(secrets: Sequence[str], *, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that say who sends this; with several secrets, the newest first, `webhook-signature` has them all.

    `X-AgentField-Signature` has room for one: the newest. Without a secret only the id and the time.
    """
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp)}
    if secrets:
        headers["X-AgentField-Signature"] = sign_agentfield(secrets[0], body)
        headers["webhook-signature"] = " ".join(
            sign_standard(one, webhook_id=webhook_id, timestamp=timestamp, body=body) for one in secrets
        )
    return headers


def new_secret() -> str:
    """`whsec_` and 32 random bytes in base64: what both schemes take, each in its own way."""
    return _PREFIX + b64encode(token_bytes(32)).decode()


def verify_standard(
    secret: str,
    *,
    webhook_id: str | None,
    timestamp: str | None,
    body: bytes,
    signature: str | None,
    tolerance_seconds: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> bool:
    """Whether one of the space-separated signatures is ours and the timestamp is fresh, neither old nor ahead.

    All three headers are passed as they arrived. `now` is in Unix seconds; None asks this machine's clock.
    """
    if not webhook_id or not signature or not _TIMESTAMP.fullmatch(timestamp or ""):
        return False
    at = int(timestamp or "")
    if abs((time.time() if now is None else now) - at) > tolerance_seconds:
        return False
    try:
        expected = sign_standard(secret, webhook_id=webhook_id, timestamp=at, body=body)
    except UnicodeEncodeError:
        return False
    return any(_same(expected, candidate) for candidate in signature.split(" ")[:_SIGNATURES_MAX])


def verify_approval(
    secret: str,
    body: bytes,
    *,
    hax: str | None,
    webhook: str | None,
    hub: str | None,
    tolerance_seconds: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> bool:
    """Whether whoever tells a decision knows the secret, by any of the three headers that approval services send.

    `hax` (`X-Hax-Signature: t=…,v1=…`) is over `t.body`, and `t` must be fresh; `webhook` (`X-Webhook-Signature`, with
    or without `sha256=`) and `hub` (`X-Hub-Signature-256`) are over the body. A decision is made once, so a message
    that is sent again changes nothing. `now` is in Unix seconds; None asks this machine's clock.
    """
    try:
        expected = sign_agentfield(secret, body)
        stamp, candidates = _stamped(hax or "")
        signed = hmac.digest(secret.encode(), b"%b.%b" % (stamp.encode(), body), hashlib.sha256).hex()
    except UnicodeEncodeError:
        return False
    fresh = abs((time.time() if now is None else now) - int(stamp)) <= tolerance_seconds
    return (
        (fresh and any(_same(signed, one) for one in candidates))
        or _same(expected, hub or "")
        or _same(expected, "sha256=" + (webhook or "").removeprefix("sha256="))
    )


def _stamped(header: str) -> tuple[str, list[str]]:
    """The moment, letter by letter, and the signatures of `t=…,v1=…`; long ago and none when it cannot be read."""
    parts = [part.strip().partition("=") for part in header.split(",", _SIGNATURES_MAX)[:_SIGNATURES_MAX]]
    stamps = [value for name, _, value in parts if name == "t"]
    if len(stamps) != 1 or not _TIMESTAMP.fullmatch(stamps[0]):
        return "0", []
    return stamps[0], [value for name, _, value in parts if name == "v1"]


def _same(expected: str, candidate: str) -> bool:
    """Constant-time; as bytes, because `compare_digest` raises on text outside ASCII. '?' is in no signature."""
    return hmac.compare_digest(expected.encode("ascii"), candidate.encode("ascii", "replace"))
