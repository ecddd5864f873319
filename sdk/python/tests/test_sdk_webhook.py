"""Both signatures of a webhook, with vectors from outside, and garbage."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from controlplane_sdk import webhook

BODY = b'{"event":"execution.completed"}'
# The example of the Standard Webhooks specification.
SPEC = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
SPEC_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SPEC_BODY = b'{"test": 2432232314}'
SPEC_AT = 1614265330.0


def article_signature(raw_body: bytes, secret: bytes) -> str:
    return "sha256=" + hmac.new(secret, raw_body, hashlib.sha256).hexdigest()


def test_the_articles_signature_is_accepted():
    """HMAC-SHA256 in hex over the raw body, with the secret as it was given."""
    header = article_signature(BODY, b"whsec_your_signing_secret")

    assert webhook.verify(BODY, header, "whsec_your_signing_secret")
    assert not webhook.verify(BODY + b" ", header, "whsec_your_signing_secret")
    assert not webhook.verify(BODY, header, "another")


def test_the_specifications_example_is_accepted():
    """id, timestamp and body, in base64, with the key that whsec_ carries."""
    assert webhook.verify_standard(SPEC_BODY, SPEC, SPEC_SECRET, now=SPEC_AT)


def test_header_names_are_caseless_and_one_of_several_signatures_is_enough():
    """As during the rotation of a secret."""
    headers = {name.title(): value for name, value in SPEC.items()}
    headers["Webhook-Signature"] = "v1,AAAA v2,xx " + headers["Webhook-Signature"]

    assert webhook.verify_standard(SPEC_BODY, headers, SPEC_SECRET, now=SPEC_AT)


@pytest.mark.parametrize("seconds", [-301, 301, 10**9])
def test_old_and_future_requests_are_refused(seconds):
    """A recorded request cannot be played again later."""
    assert not webhook.verify_standard(SPEC_BODY, SPEC, SPEC_SECRET, now=SPEC_AT + seconds)


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("whsec_" + base64.b64encode(b"k" * 24).decode(), b"k" * 24),
        ("whsec_" + base64.b64encode(b"k" * 64).decode(), b"k" * 64),
        ("whsec_" + base64.b64encode(b"k" * 23).decode(), None),
        ("whsec_" + base64.b64encode(b"k" * 65).decode(), None),
        ("whsec_your_signing_secret", None),
        (base64.b64encode(b"k" * 32).decode(), b"k" * 32),
        ("whsec_" + base64.b64encode(b"k" * 32).decode().rstrip("="), None),
        ("plain", None),
    ],
)
def test_the_key_is_what_whsec_carries_or_the_secret_itself(secret, key):
    """Only strict base64 of 24 to 64 bytes counts as carried."""
    assert webhook.standard_key(secret) == (key or secret.encode())


VECTORS = json.loads((Path(__file__).parents[2] / "conformance" / "signatures.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["verifies"], ids=lambda one: one["name"])
def test_what_every_sdk_has_to_accept(vector):
    """Signed by another program, with every kind of secret."""
    body, headers = vector["body"].encode(), vector["headers"]

    assert webhook.verify(body, headers["X-AgentField-Signature"], vector["secret"])
    assert webhook.verify_standard(body, headers, vector["secret"], now=vector["now"])


@pytest.mark.parametrize("vector", VECTORS["does_not"], ids=lambda one: one["name"])
def test_what_every_sdk_has_to_refuse(vector):
    """A byte, an id or a moment that is another."""
    assert not webhook.verify_standard(vector["body"].encode(), vector["headers"], vector["secret"], now=vector["now"])


GARBAGE: list[Any] = [None, "", "sha256=", "sha256=é", "\ud800", 7, b"x", [], {}, "v1,", "١٢٣"]


@pytest.mark.parametrize("junk", GARBAGE)
def test_garbage_is_refused_without_an_error(junk):
    """Whatever a stranger sends, the answer is no."""
    assert webhook.verify(BODY, junk, "secret") is False
    assert webhook.verify(BODY, article_signature(BODY, b""), "") is False
    assert webhook.verify(junk, "sha256=00", "secret") is False
    assert webhook.verify(BODY, "sha256=00", junk) is False
    for name in SPEC:
        assert webhook.verify_standard(SPEC_BODY, SPEC | {name: junk}, SPEC_SECRET, now=SPEC_AT) is False
    assert webhook.verify_standard(SPEC_BODY, junk, SPEC_SECRET) is False
    assert webhook.verify_standard(junk, SPEC, SPEC_SECRET, now=SPEC_AT) is False
    assert webhook.verify_standard(SPEC_BODY, SPEC, junk, now=SPEC_AT) is False
