"""Secrets at rest: sealed with AES-256-GCM under a ring of keys, each seal bound to the place it is stored in.

A sealed value is: version (1 byte) · length of the key's id (1 byte) · key id · nonce (12 bytes) · ciphertext and tag.
The place and everything before the nonce are authenticated, so a value moved to another row does not open.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = 1
_KEY_BYTES = 32
_NONCE_BYTES = 12
_SIGNING = b"controlplane.signing"
UNKNOWN_KID = "?"
_KID = re.compile(r"[A-Za-z0-9_.-]{1,32}")


class SealBroken(Exception):
    """This value cannot be opened: its key is not on the ring, it was changed, or it belongs to another place."""


class KeyRing:
    """Seals with its first key and opens with any of them.

    Nonces are random, so one key is good for some 2^32 seals; put a new key in front long before.
    """

    __slots__ = ("_ciphers", "_current", "_signers")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """`keys` maps key ids to 32 bytes; the first is the current one."""
        if not keys:
            raise ValueError("a key ring needs at least one key")
        self._ciphers = {kid: _cipher(kid, key) for kid, key in keys.items()}
        self._current = next(iter(keys))
        # Keys of their own, so that nothing that is signed says anything of a key that seals.
        self._signers = tuple(hmac.digest(key, _SIGNING, hashlib.sha256) for key in keys.values())

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read `kid:base64,kid:base64`: the first key seals, the others only open. Errors never quote a key."""
        keys: dict[str, bytes] = {}
        for number, entry in enumerate(text.split(","), start=1):
            kid, colon, encoded = entry.strip().partition(":")
            if not colon:
                raise ValueError(f"key {number} must have the form kid:base64")
            if kid in keys:
                raise ValueError(f"key {number} has the id of an earlier key")
            try:
                keys[kid] = b64decode(encoded, validate=True)
            except (Base64Error, ValueError):
                raise ValueError(f"key {number} is not base64 of {_KEY_BYTES} bytes") from None
        return cls(keys)

    @staticmethod
    def generate() -> str:
        """The text of a ring with one new key."""
        return f"{token_hex(4)}:{b64encode(token_bytes(_KEY_BYTES)).decode()}"

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The ring in this file, made on the first call and readable by its owner only.

        Processes that start at once agree on one key: each writes a file of its own and links it to `path`, which
        succeeds for exactly one of them; nobody can see a file half written.
        """
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _create(path, cls.generate() + "\n")
        return cls.from_text(path.read_text(encoding="ascii"))

    @property
    def current(self) -> str:
        """The id of the key that seals."""
        return self._current

    @property
    def kids(self) -> tuple[str, ...]:
        """The ids of its keys, the one that seals first."""
        return tuple(self._ciphers)

    def kid_of(self, sealed: bytes) -> str:
        """The id of the key that a value was sealed with, also of one that is not on this ring; `?` for no seal."""
        try:
            return _kid_of(sealed)[0]
        except SealBroken:
            return UNKNOWN_KID

    def reseal(self, sealed: bytes, *, bound_to: bytes) -> bytes | None:
        """The same under the key in front; None where it is already. Raises: SealBroken."""
        if _kid_of(sealed)[0] == self._current:
            return None
        return self.seal(self.open(sealed, bound_to=bound_to), bound_to=bound_to)

    def seal(self, plaintext: bytes, *, bound_to: bytes) -> bytes:
        """Encrypt; only `open` with the same `bound_to` gives it back. Name table, column and row there."""
        head = bytes((_VERSION, len(self._current))) + self._current.encode()
        nonce = token_bytes(_NONCE_BYTES)
        return head + nonce + self._ciphers[self._current].encrypt(nonce, plaintext, bound_to + head)

    def open(self, sealed: bytes, *, bound_to: bytes) -> bytes:
        """Decrypt what `seal` made for this very place. Raises: SealBroken."""
        kid, start = _kid_of(sealed)
        cipher = self._ciphers.get(kid)
        if cipher is None:
            raise SealBroken(f"no key on the ring has the id {kid!r}")
        head, nonce, rest = sealed[:start], sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, rest, bound_to + head)
        except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            raise SealBroken("the value was changed, or it belongs to another place") from None

    def sign(self, message: bytes, *, purpose: bytes) -> bytes:
        """32 bytes that only who has this ring can make, for this message and purpose (HMAC-SHA256)."""
        return hmac.digest(self._signers[0], purpose + b"\0" + message, hashlib.sha256)

    def verify(self, message: bytes, signature: bytes, *, purpose: bytes) -> bool:
        """Whether a key of this ring has signed this message for this purpose."""
        signed = (hmac.digest(key, purpose + b"\0" + message, hashlib.sha256) for key in self._signers)
        return any(hmac.compare_digest(one, signature) for one in signed)

    def __repr__(self) -> str:
        return f"KeyRing(current={self._current!r}, keys={len(self._ciphers)})"


def _cipher(kid: str, key: bytes) -> AESGCM:
    if not _KID.fullmatch(kid):
        raise ValueError("a key id is 1 to 32 letters, digits, '_', '.' or '-'")
    if len(key) != _KEY_BYTES:
        raise ValueError(f"the key {kid!r} must be {_KEY_BYTES} bytes long")
    return AESGCM(key)


def _kid_of(sealed: bytes) -> tuple[str, int]:
    """The id of the key that made this seal, and where the nonce starts."""
    if len(sealed) < 2 or sealed[0] != _VERSION:
        raise SealBroken("this is not a sealed value")
    start = 2 + sealed[1]
    return sealed[2:start].decode("ascii", "replace"), start


def _create(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return  # another process was first; its key counts
        _sync_folder(path.parent)  # a key lost in a power cut would lose all that was sealed with it
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
