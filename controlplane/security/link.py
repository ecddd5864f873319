"""Links that are keys: whoever holds one may decide this one question, and nothing else.

The token names execution and request and is signed with the server's own secret. That it works once, and for how long,
is a matter of the question it leads to: one that is decided or over is not decided again.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from uuid import UUID

from controlplane.domain.ids import ExecutionId
from controlplane.security.secrets import KeyRing

TOKEN_CHARS_MAX = 2_048
_PURPOSE = b"approval.link"
_ID_BYTES = 16
_SIGNATURE_BYTES = 32


def sign_link(ring: KeyRing, id_: ExecutionId, request_id: str) -> str:
    """The token of this question: always the same."""
    message = id_.bytes + request_id.encode()
    return urlsafe_b64encode(ring.sign(message, purpose=_PURPOSE) + message).rstrip(b"=").decode()


def read_link(ring: KeyRing, token: str) -> tuple[ExecutionId, str] | None:
    """The execution and the request that a token of ours is for; None for any other, and never an error."""
    if len(token) > TOKEN_CHARS_MAX or not token.isascii():
        return None
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (Base64Error, ValueError):
        return None
    signature, message = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    if len(message) <= _ID_BYTES or not ring.verify(message, signature, purpose=_PURPOSE):
        return None
    return ExecutionId(UUID(bytes=message[:_ID_BYTES])), message[_ID_BYTES:].decode()
