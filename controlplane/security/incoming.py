"""Whether a request that came in was sent by who knows the secret: the ways in which others sign, over the raw bytes.

Nothing is parsed before it is known to be theirs. Everything that is compared is compared as bytes and in constant
time; a header that comes twice is as none; a verifier answers why not and never raises.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence

from controlplane.domain.trigger import Encoding, Preset, Scheme, header_of
from controlplane.security.signature import sign_standard, verify_standard

Headers = Mapping[str, Sequence[str]]
"""Every value of each header, by its name in lower case."""

TIMESTAMP = re.compile(r"[0-9]{1,12}")
PLACE = re.compile(r"\{(timestamp|id)\}")
SIGNATURES_MAX = 32
SVIX = ("id", "timestamp", "signature")

NO_SIGNATURE = "no signature, or more than one"
NO_TIMESTAMP = "no timestamp, or not one number"
STALE = "the timestamp is too far from now"
WRONG = "the signature is another"


def refused(scheme: Scheme, secrets: Sequence[str], body: bytes, headers: Headers, *, now: float) -> str | None:
    """Why this is not from who knows one of these secrets; None when it is. `now` is in Unix seconds.

    Every secret is tried, the right one too, so that how long it takes says nothing.
    """
    said = aliased(scheme, headers)
    found = [_refused(scheme, secret, body, said, now) for secret in secrets]
    return None if None in found else (found[0] if found else WRONG)


def aliased(scheme: Scheme, headers: Headers) -> Headers:
    """Standard Webhooks' headers under their own names, also where a sender uses those of Svix, where they are from."""
    if scheme.preset is not Preset.STANDARD or "webhook-id" in headers:
        return headers
    svix = {f"webhook-{name}": headers[f"svix-{name}"] for name in SVIX if f"svix-{name}" in headers}
    return {**headers, **svix}


def only(headers: Headers, name: str) -> str | None:
    """The value of a header that came exactly once."""
    values = headers.get(name.lower(), ())
    return values[0] if len(values) == 1 else None


def sign(scheme: Scheme, secret: str, body: bytes, *, timestamp: str = "", event_id: str = "") -> str:
    """What stands in the header of the scheme when somebody who knows the secret sends these bytes."""
    if scheme.preset is Preset.BEARER:
        return scheme.prefix + secret
    if scheme.preset is Preset.STANDARD:
        return sign_standard(secret, webhook_id=event_id, timestamp=int(timestamp), body=body)
    text = scheme.prefix + _mac(scheme, secret, body, timestamp=timestamp, event_id=event_id)
    return f"t={timestamp},v1={text}" if scheme.preset is Preset.STRIPE else text


def _refused(scheme: Scheme, secret: str, body: bytes, headers: Headers, now: float) -> str | None:
    signature = only(headers, scheme.header)
    if not signature:
        return NO_SIGNATURE
    match scheme.preset:
        case Preset.BEARER:
            return None if _same(secret, _bearer_of(scheme, signature)) else WRONG
        case Preset.STANDARD:
            return _standard(scheme, secret, body, headers, signature, now)
        case Preset.STRIPE:
            stamp, candidates = _stamped(signature)
        case _:
            stamp = only(headers, scheme.timestamp_header) if scheme.timestamp_header else ""
            candidates = [signature.removeprefix(scheme.prefix)] if signature.startswith(scheme.prefix) else []
    if stamp is None or (stamp and not TIMESTAMP.fullmatch(stamp)) or (not stamp and "{timestamp}" in scheme.signed):
        return NO_TIMESTAMP
    expected = _mac(scheme, secret, body, timestamp=stamp, event_id=_id(scheme, headers))
    same = [_same(expected, one.lower() if scheme.encoding is Encoding.HEX else one) for one in candidates]
    if not any(same):
        return WRONG
    if stamp and abs(now - int(stamp)) > scheme.tolerance_seconds:
        return STALE
    return None


def _standard(scheme: Scheme, secret: str, body: bytes, headers: Headers, signature: str, now: float) -> str | None:
    good = verify_standard(
        secret,
        webhook_id=only(headers, "webhook-id"),
        timestamp=only(headers, "webhook-timestamp"),
        body=body,
        signature=signature,
        tolerance_seconds=scheme.tolerance_seconds,
        now=now,
    )
    return None if good else WRONG


def _mac(scheme: Scheme, secret: str, body: bytes, *, timestamp: str, event_id: str) -> str:
    values = {"timestamp": timestamp, "id": event_id}
    before, _, after = scheme.signed.partition("{body}")
    head, tail = (
        PLACE.sub(lambda found: values[found[1]], part).encode("latin-1", "replace") for part in (before, after)
    )
    digest = hmac.digest(secret.encode("utf-8", "replace"), head + body + tail, scheme.algorithm.value)
    return digest.hex() if scheme.encoding is Encoding.HEX else b64encode(digest).decode()


def _id(scheme: Scheme, headers: Headers) -> str:
    name = header_of(scheme.id_from or "")
    return (only(headers, name) or "") if name is not None else ""


def _stamped(header: str) -> tuple[str | None, list[str]]:
    """The moment, letter by letter, and the signatures of `t=…,v1=…`; other versions and words are passed over."""
    parts = [part.strip().partition("=") for part in header.split(",", SIGNATURES_MAX)[:SIGNATURES_MAX]]
    stamps = [value for name, _, value in parts if name == "t"]
    return stamps[0] if len(stamps) == 1 else None, [value for name, _, value in parts if name == "v1"]


def _bearer_of(scheme: Scheme, said: str) -> str:
    """The token; the word before it, as every authentication scheme, in any case."""
    size = len(scheme.prefix)
    return said[size:].strip() if said[:size].lower() == scheme.prefix.lower() else ""


def _same(expected: str, candidate: str) -> bool:
    """Constant-time; as bytes, for text outside ASCII: headers are read as Latin-1, so back to what came."""
    return hmac.compare_digest(expected.encode("utf-8", "replace"), candidate.encode("latin-1", "replace"))
