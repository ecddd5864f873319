"""Sign-in: what a browser shows instead of a key, once it has shown the key.

The cookie is sealed under the ring of the server and holds the id and the hash of the key, never the key: whoever takes
it apart cannot make a key of it, a key that is revoked or expires ends it at once, and every replica can read it. It is
read by HTTP alone; sockets take tickets. `SameSite=Lax`, so that a link in a message opens for who has signed in; a
request that changes something must carry `X-Controlplane-Page`, too, which no form and no page of another origin sends.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from uuid import UUID

from starlette.types import Scope

from controlplane.api.doors import Doors
from controlplane.api.fields import fields_of
from controlplane.domain.ids import made_at
from controlplane.domain.key import Caller, KeyId
from controlplane.errors import Unauthorized
from controlplane.security.keys import digest
from controlplane.security.secrets import SealBroken

COOKIE = "controlplane_signin"
PAGE_HEADER = b"x-controlplane-page"
SIGNED_IN_SECONDS = 12 * 3600
"""How long a browser is let in before it has to show the key again."""
COOKIE_BYTES_MAX = 400
_BOUND_TO = b"cookie.signin"
_ID_BYTES, _HASH_BYTES = 16, 32
_STARTER = UUID(int=0)
_SAFE = frozenset({"GET", "HEAD"})
_SIGN_IN = "Sign in again, or send X-API-Key."


async def begin(doors: Doors, key: str, *, host: str) -> tuple[Caller, str] | None:
    """Who comes with this key, and the value of the cookie; None where nobody needs a key.

    Raises: Unauthorized, RateLimited, DatabaseUnavailable.
    """
    said = key.encode("utf-8", "replace")
    caller = await doors.entrance.admit(said, host=host)
    if caller is None:
        return None
    key_id = _STARTER if caller.key_id is None else caller.key_id
    inside = doors.ids.new(0).bytes + key_id.bytes + digest(said)
    sealed = doors.keyring.seal(inside, bound_to=_BOUND_TO)
    return caller, urlsafe_b64encode(sealed).decode().rstrip("=")


async def admit(scope: Scope, doors: Doors) -> Caller | None:
    """Whom the cookie of this request lets in, if it has one that is not over.

    Raises: Unauthorized when it would change something and may have been made by a page of somebody else.
    """
    if scope["type"] != "http" or not doors.entrance.closed:
        return None
    fields = fields_of(scope)
    found = _read(doors, fields.get(b"cookie", b"").decode("latin-1"))
    if found is None:
        return None
    host = scope["client"][0] if scope.get("client") else ""
    caller = await doors.entrance.readmit(*found, host=host)
    if caller is not None and not is_safe(scope) and PAGE_HEADER not in fields:
        raise Unauthorized("A cookie alone changes nothing.", fix=_SIGN_IN)
    return caller


def is_safe(scope: Scope) -> bool:
    """Whether a request only looks. A socket does."""
    return scope["type"] != "http" or scope["method"] in _SAFE


def _read(doors: Doors, cookies: str) -> tuple[KeyId | None, bytes] | None:
    """The id and the hash of the key in the cookie, unless it is forged, damaged or too old."""
    value = next((one[len(COOKIE) + 1 :] for one in cookies.split("; ") if one.startswith(f"{COOKIE}=")), "")
    if not value or len(value) > COOKIE_BYTES_MAX:
        return None
    try:
        inside = doors.keyring.open(urlsafe_b64decode(value + "=" * (-len(value) % 4)), bound_to=_BOUND_TO)
    except (SealBroken, Base64Error, ValueError):
        return None
    if len(inside) != 2 * _ID_BYTES + _HASH_BYTES:
        return None
    begun, key_id = UUID(bytes=inside[:_ID_BYTES]), UUID(bytes=inside[_ID_BYTES : 2 * _ID_BYTES])
    if (made_at(doors.ids.new(0)) - made_at(begun)).total_seconds() > SIGNED_IN_SECONDS:
        return None
    return None if key_id == _STARTER else KeyId(key_id), inside[2 * _ID_BYTES :]
