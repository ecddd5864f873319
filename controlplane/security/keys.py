"""API keys as texts: made once, shown once, recognised by their form alone, kept as a hash.

`cp_<26 digits>_<43 digits><6 digits>`: the id of the key in base32, 256 random bits in base62, and the CRC-32 of all
that stands before it in base62. A scanner finds it by its form, and a typing error is refused without a look-up.
The random part cannot be guessed, so that a fast hash keeps it as well as a slow one would.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib

from controlplane.domain.ids import read, show
from controlplane.domain.key import KeyId
from controlplane.errors import Invalid

MARK = "cp"
SECRET_BITS = 256
SECRET_DIGITS = 43
CHECK_DIGITS = 6
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TICKET_MARK = "ticket"
TICKET_FORM = re.compile(r"ticket_[0-9A-Za-z]{43}")
FORM = re.compile(r"cp_[0-7][0-9a-z]{25}_[0-9A-Za-z]{49}")


def make(id_: KeyId) -> str:
    """A new key of this id. It is shown to whoever asked for it, and never again."""
    body = f"{prefix_of(id_)}_{_base62(secrets.randbits(SECRET_BITS), SECRET_DIGITS)}"
    return body + _check(body)


def make_ticket() -> str:
    """A new ticket: 256 random bits."""
    return f"{TICKET_MARK}_{_base62(secrets.randbits(SECRET_BITS), SECRET_DIGITS)}"


def is_ticket(text: str) -> bool:
    """Whether this text has the form of a ticket."""
    return TICKET_FORM.fullmatch(text) is not None


def prefix_of(id_: KeyId) -> str:
    """What a key begins with: enough to tell which one it is, of no use to anybody else."""
    return show(MARK, id_)


def id_in(text: str) -> KeyId | None:
    """The id of the key that this text has the form and the checksum of; None for any other."""
    if not FORM.fullmatch(text):
        return None
    if _check(text[:-CHECK_DIGITS]) != text[-CHECK_DIGITS:]:
        return None
    try:
        return KeyId(read(MARK, text.rpartition("_")[0], where="key"))
    except Invalid:
        return None


def digest(text: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(text).digest()


def same(one: bytes, other: bytes) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(one, other)


def _check(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECK_DIGITS)


def _base62(number: int, digits: int) -> str:
    found = []
    for _ in range(digits):
        number, digit = divmod(number, len(DIGITS))
        found.append(DIGITS[digit])
    return "".join(reversed(found))
