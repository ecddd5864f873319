"""Incoming: who sent it is known by the bytes, in each own way; the signatures here are made by public recipes."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace

import pytest

from controlplane.domain.trigger import PRESETS, Algorithm, Encoding, Preset, Scheme
from controlplane.security.incoming import refused, sign

NOW = 1_700_000_000
SECRET = "a secret, müde"
STANDARD_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
BODIES = [b'{"id": "evt_1"}', b"", b"a\r\nb\r\n", b"\xef\xbb\xbf{}", bytes(range(256))]
Said = dict[str, list[str]]


def mac(message: bytes, *, secret: bytes = SECRET.encode(), how: str = "sha256") -> bytes:
    return hmac.new(secret, message, getattr(hashlib, how)).digest()


def github(body: bytes, at: int = NOW) -> Said:
    """docs.github.com: `sha256=` and the HMAC of the body in hex."""
    return {"x-hub-signature-256": ["sha256=" + mac(body).hex()]}


def stripe(body: bytes, at: int = NOW) -> Said:
    """docs.stripe.com: `t.body`, among the signatures of other versions."""
    return {"stripe-signature": [f"t={at},v1={mac(b'%d.' % at + body).hex()},v0=6ffbb59b2300aae63f272406069a9788"]}


def slack(body: bytes, at: int = NOW) -> Said:
    """api.slack.com: `v0:timestamp:body`."""
    signature = "v0=" + mac(b"v0:%d:" % at + body).hex()
    return {"x-slack-signature": [signature], "x-slack-request-timestamp": [str(at)]}


def standard(body: bytes, at: int = NOW) -> Said:
    """standardwebhooks.com: `id.timestamp.body`, keyed with what stands after `whsec_`."""
    key = base64.b64decode(STANDARD_SECRET.removeprefix("whsec_"))
    signature = base64.b64encode(mac(b"msg_1.%d." % at + body, secret=key)).decode()
    return {
        "webhook-id": ["msg_1"],
        "webhook-timestamp": [str(at)],
        "webhook-signature": [f"v1a,other v1,{signature}"],
    }


SENDERS = {Preset.GITHUB: github, Preset.STRIPE: stripe, Preset.SLACK: slack, Preset.STANDARD: standard}
DATED = [Preset.STRIPE, Preset.SLACK, Preset.STANDARD]
SIGNATURE = {preset: PRESETS[preset].header.lower() for preset in SENDERS}


def secret_of(preset: Preset) -> str:
    return STANDARD_SECRET if preset is Preset.STANDARD else SECRET


def good(preset: Preset, body: bytes, said: Said, *secrets: str, now: float = NOW) -> bool:
    return refused(PRESETS[preset], secrets or [secret_of(preset)], body, said, now=now) is None


@pytest.mark.parametrize("preset", SENDERS)
@pytest.mark.parametrize("body", BODIES)
def test_what_its_sender_signed_is_taken(preset: Preset, body: bytes) -> None:
    """Whatever the body is: it is not looked at."""
    assert good(preset, body, SENDERS[preset](body))


@pytest.mark.parametrize("preset", SENDERS)
def test_any_other_byte_is_refused(preset: Preset) -> None:
    """One bit of the body, one letter of any header, or another secret."""
    body = b'{"id": "evt_1"}'
    said = SENDERS[preset](body)

    assert not good(preset, bytes([body[0] ^ 1]) + body[1:], said)
    assert not good(preset, body + b"\n", said)
    assert not good(preset, body, said, secret_of(preset)[:-1])
    for name, [value] in said.items():
        last = value.replace(",v0=6ffbb59b2300aae63f272406069a9788", "")
        for other in (last[:-2] + ("0" if last[-2] != "0" else "1") + last[-1], "", "sha256=", "v1,", "é", "v0="):
            assert not good(preset, body, said | {name: [other]}), (name, other)


@pytest.mark.parametrize("preset", SENDERS)
def test_a_header_that_is_missing_or_comes_twice(preset: Preset) -> None:
    """Is as none: whoever is behind a proxy that adds one must not be able to choose."""
    said = SENDERS[preset](b"{}")

    for name, values in said.items():
        assert not good(preset, b"{}", {other: value for other, value in said.items() if other != name})
        assert not good(preset, b"{}", said | {name: values * 2})


@pytest.mark.parametrize("preset", DATED)
@pytest.mark.parametrize(("at", "taken"), [(-300, True), (300, True), (-301, False), (301, False), (-86_400, False)])
def test_the_moment_must_be_near(preset: Preset, at: int, taken: bool) -> None:
    """Five minutes either way, of what is signed."""
    assert good(preset, b"{}", SENDERS[preset](b"{}", NOW + at)) is taken


@pytest.mark.parametrize("stamp", ["1_700_000_000", "١٧٠٠٠٠٠٠٠٠", " 1700000000", "1.7e9", "-1", "", "9" * 13])
def test_a_moment_is_digits(stamp: str) -> None:
    """Also when it is signed as it is: other things that Python reads as numbers are none."""
    body = b"{}"
    at = stamp.encode("latin-1", "replace")
    said = f"t={stamp},v1={mac(at + b'.' + body).hex()}"
    slacks = {"x-slack-signature": ["v0=" + mac(b"v0:" + at + b":{}").hex()], "x-slack-request-timestamp": [stamp]}

    assert not good(Preset.STRIPE, body, {"stripe-signature": [said]})
    assert not good(Preset.SLACK, body, slacks)


def test_one_of_several_signatures_is_enough() -> None:
    """While a sender changes its secret it signs with both; while we do, either is taken."""
    one, two = mac(b"%d.{}" % NOW).hex(), "0" * 64
    said = {"stripe-signature": [f"t={NOW},v1={two},v1={one}"]}

    assert good(Preset.STRIPE, b"{}", said)
    assert good(Preset.STRIPE, b"{}", said, "the newer", SECRET)
    assert not good(Preset.STRIPE, b"{}", {"stripe-signature": [f"t={NOW},t={NOW},v1={one}"]})


def test_the_sender_of_svix_is_known_too() -> None:
    """Standard Webhooks come from there; its headers have its own name."""
    said = {name.replace("webhook", "svix"): value for name, value in standard(b"{}").items()}

    assert good(Preset.STANDARD, b"{}", said)


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("encoding", Encoding)
def test_a_scheme_of_ones_own(algorithm: Algorithm, encoding: Encoding) -> None:
    """Header, prefix, algorithm, encoding and what is signed are all the sender's."""
    scheme = Scheme(
        preset=Preset.HMAC,
        header="X-Sig",
        prefix="s=",
        algorithm=algorithm,
        encoding=encoding,
        signed="{id}|{timestamp}|{body}|",
        timestamp_header="X-At",
        id_from="header:X-Id",
    )
    digest = mac(b"{body}|%d|{}|" % NOW, how=algorithm.value)
    text = digest.hex() if encoding is Encoding.HEX else base64.b64encode(digest).decode()
    said = {"x-sig": ["s=" + text], "x-at": [str(NOW)], "x-id": ["{body}"]}

    assert refused(scheme, [SECRET], b"{}", said, now=NOW) is None
    assert refused(scheme, [SECRET], b"{}", said | {"x-sig": [text]}, now=NOW)
    assert refused(scheme, [SECRET], b"{}", said | {"x-id": ["other"]}, now=NOW)
    assert refused(scheme, [SECRET], b"{}", said, now=NOW + 301)


def test_a_bearer() -> None:
    """The token itself, in a header of any name; the word before it in any case."""
    scheme, plain = PRESETS[Preset.BEARER], replace(PRESETS[Preset.BEARER], header="X-Gitlab-Token", prefix="")

    assert (
        refused(scheme, ["tökén"], b"", {"authorization": ["bearer tökén".encode().decode("latin-1")]}, now=0) is None
    )
    assert refused(plain, ["token"], b"", {"x-gitlab-token": ["token"]}, now=0) is None
    for wrong in ("Bearer toke", "Basic token", "token", "Bearer", "Bearer  ", "Bearer token2"):
        assert refused(scheme, ["token"], b"", {"authorization": [wrong]}, now=0)


@pytest.mark.parametrize("preset", SENDERS)
def test_what_we_sign_is_taken(preset: Preset) -> None:
    """The sample of a trigger is a request as its sender makes it."""
    scheme, said = PRESETS[preset], SENDERS[preset](b"{}")
    made = sign(scheme, secret_of(preset), b"{}", timestamp=str(NOW), event_id="msg_1")

    assert good(preset, b"{}", said | {SIGNATURE[preset]: [made]})
