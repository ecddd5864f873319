"""Both webhook signatures, against vectors made by other programs (openssl, the public standardwebhooks library)."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from controlplane.security.signature import (
    sign_agentfield,
    sign_standard,
    standard_key,
    verify_agentfield,
    verify_approval,
    verify_standard,
)

BODY = b'{"event":"execution.completed","result":"\xc3\xa9\\u0000"}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GOOD = "v1,o2cMRv1nyNTMQ2/CTYU3J/hqYnjgDfg4VW2JW3AT4fA="
AT = 1_700_000_000


def fresh(**changes: object) -> bool:
    """`verify_standard` of a good message, but for the changes."""
    message = {
        "webhook_id": "dlv_0123456789",
        "timestamp": str(AT),
        "body": BODY,
        "signature": GOOD,
        "now": AT,
        **changes,
    }
    return verify_standard(SECRET, **message)  # type: ignore[arg-type]


def test_agentfield_signature_matches_openssl() -> None:
    """The key is the whole secret as written, prefix and all."""
    signature = sign_agentfield("whsec_top secret é", b'{"event":"execution.completed"}')

    assert signature == "sha256=1e4161867832519ef3d6f77bed5029fcc9b1ed88cf6bc661e520a14b08eb0feb"
    assert verify_agentfield("whsec_top secret é", b'{"event":"execution.completed"}', signature)


@pytest.mark.parametrize("signature", [None, "", "sha256=", "sha256=é", "\ud800", "sha1=00", "sha256=" + "0" * 64])
def test_agentfield_garbage_is_false(signature: str | None) -> None:
    """No header, however broken, raises or passes."""
    assert verify_agentfield("secret", BODY, signature) is False


def test_agentfield_signature_needs_its_prefix_case_and_body() -> None:
    """Nothing is normalised before comparing."""
    signature = sign_agentfield("secret", BODY)

    assert not verify_agentfield("secret", BODY, signature.removeprefix("sha256="))
    assert not verify_agentfield("secret", BODY, signature.upper())
    assert not verify_agentfield("secret", BODY + b"\n", signature)
    assert not verify_agentfield("Secret", BODY, signature)
    assert not verify_agentfield("\ud800", BODY, signature)


@pytest.mark.parametrize(
    ("secret", "webhook_id", "at", "body", "signature"),
    [
        (SECRET, "dlv_0123456789", AT, BODY, GOOD),
        (SECRET.removeprefix("whsec_"), "dlv_0123456789", AT, BODY, GOOD),
        (
            "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "dlv_0123456789",
            AT,
            BODY,
            "v1,SgeEsenp4PtyMHcbEaIotessvhx2HtKs9ipXroegJn8=",
        ),
        (
            "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==",
            "dlv_0123456789",
            AT,
            BODY,
            "v1,D9ojbKLFXdaTr3nPAOr3JarLqlsaiH7biVhbP+zAQFQ=",
        ),
        (
            SECRET,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            b'{"test": 2432232314}',
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        ("not base64!", "dlv_0123456789", AT, BODY, "v1,2D6gceogyEf2+Kl5cnTaocfMVMBeu0+CvblVbLK0Vj4="),
        (
            "my plain secret",
            "dlv_0123456789",
            AT,
            b'{"a":1}',
            "v1,S0dQSy47sBzB0yHXo4OjgXrMywGUPo9do5KKzb5Pq0o=",
        ),
    ],
)
def test_standard_signature_matches_other_libraries(
    secret: str, webhook_id: str, at: int, body: bytes, signature: str
) -> None:
    """A receiver with any Standard Webhooks library accepts what we send."""
    assert sign_standard(secret, webhook_id=webhook_id, timestamp=at, body=body) == signature


@pytest.mark.parametrize("length", [24, 32, 64])
def test_standard_key_is_decoded(length: int) -> None:
    """Strict base64 of 24 to 64 bytes is a key in disguise."""
    key = bytes(range(length))

    assert standard_key("whsec_" + b64encode(key).decode()) == key


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_" + b64encode(bytes(23)).decode(),  # too short
        "whsec_" + b64encode(bytes(65)).decode(),  # too long
        "whsec_" + b64encode(bytes(32)).decode().rstrip("="),  # no padding
        "whsec_" + b64encode(bytes(31)).decode()[:-2] + "B=",  # stray bits in the last letter
        "whsec_" + b64encode(bytes(32)).decode() + "\n",
        "whsec_" + "-_" * 16,  # another alphabet
        "whsec_",
        "plain",
        "é" * 32,
        "",
    ],
)
def test_any_other_secret_is_its_own_key(secret: str) -> None:
    """What is not strict base64 of the right size is used letter by letter, prefix included."""
    assert standard_key(secret) == secret.encode()


def test_one_good_signature_among_several_suffices() -> None:
    """While a secret is being changed, both old and new signatures are sent."""
    assert fresh()
    assert fresh(signature=f"v1,{'A' * 43}= v1a,xyz {GOOD}")
    assert fresh(signature=f" {GOOD} ")


@pytest.mark.parametrize("skew", [-300, 300])
def test_timestamp_may_be_off_by_the_tolerance(skew: int) -> None:
    """Five minutes either way are accepted."""
    assert fresh(now=AT + skew)


@pytest.mark.parametrize("skew", [-301, 301, 10**9])
def test_timestamp_too_old_or_ahead_is_false(skew: int) -> None:
    """A replayed message fails, and so does one from the future."""
    assert fresh(now=AT + skew) is False


@pytest.mark.parametrize(
    "change",
    [
        {"webhook_id": None},
        {"webhook_id": ""},
        {"webhook_id": "dlv_0123456780"},
        {"webhook_id": "\ud800"},
        {"timestamp": None},
        {"timestamp": ""},
        {"timestamp": "1_700_000_000"},
        {"timestamp": f" {AT}"},
        {"timestamp": f"{AT}\n"},
        {"timestamp": f"{AT}.0"},
        {"timestamp": f"-{AT}"},
        {"timestamp": "\u0661\u0667\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660"},
        {"timestamp": "9" * 5000},
        {"timestamp": str(AT + 1)},
        {"body": BODY + b" "},
        {"signature": None},
        {"signature": ""},
        {"signature": GOOD.removeprefix("v1,")},
        {"signature": GOOD.replace("v1,", "v2,")},
        {"signature": GOOD.rstrip("=")},
        {"signature": GOOD.lower()},
        {"signature": GOOD.replace(" ", ",") + "," + GOOD},
        {"signature": "v1,é"},
        {"signature": "\udcff" * 10},
        {"signature": " " * 100_000},
    ],
)
def test_standard_garbage_is_false(change: dict[str, object]) -> None:
    """No header, however broken, raises or passes."""
    assert fresh(**change) is False


def test_clock_of_this_machine_is_the_default() -> None:
    """Without `now`, a message of 2023 is stale."""
    assert fresh(now=None) is False


def approval(**over: object) -> bool:
    """`verify_approval` of what is said, and nothing else."""
    said = {"hax": None, "webhook": None, "hub": None, "now": AT, **over}
    return verify_approval("approve-me", BODY, **said)  # type: ignore[arg-type]


PLAIN = hmac.new(b"approve-me", BODY, hashlib.sha256).hexdigest()
STAMPED = hmac.new(b"approve-me", b"%d." % AT + BODY, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "said",
    [
        {"hax": f"t={AT},v1={STAMPED}"},
        {"hax": f"v1={STAMPED}, t={AT}"},
        {"hax": f"t={AT},v1=old,v0=x,v1={STAMPED}"},
        {"hax": f"t={AT},v1={STAMPED}", "now": AT + 300},
        {"hax": f"t={AT},v1={STAMPED}", "now": AT - 300},
        {"webhook": PLAIN},
        {"webhook": f"sha256={PLAIN}"},
        {"hub": f"sha256={PLAIN}"},
        {"hub": f"sha256={PLAIN}", "hax": "nonsense"},
    ],
)
def test_approval_signatures_verify(said: dict[str, object]) -> None:
    """Any of the three headers, in every form that is in use."""
    assert approval(**said)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"hax": f"t={AT},v1={STAMPED}", "now": AT + 301},
        {"hax": f"t={AT},v1={STAMPED}", "now": AT - 301},
        {"hax": f"t=0{AT},v1={STAMPED}"},
        {"hax": f"t={AT + 1},v1={STAMPED}"},
        {"hax": f"t={AT},t={AT},v1={STAMPED}"},
        {"hax": f"t={AT},v1={STAMPED.upper()}"},
        {"hax": f"t={AT},v1={PLAIN}"},
        {"hax": f"t={AT},v0={STAMPED}"},
        {"hax": f"t={AT}," + "v1=x," * 40 + f"v1={STAMPED}"},
        {"hax": f"t=,v1={STAMPED}"},
        {"hax": "t=\u0661,v1=x"},
        {"hax": PLAIN},
        {"hax": "é\ud800,=,,t"},
        {"webhook": ""},
        {"webhook": "sha256="},
        {"webhook": f"sha256=sha256={PLAIN}"},
        {"webhook": "\ud800"},
        {"webhook": STAMPED},
        {"hub": PLAIN},
        {"hub": "sha256=" + "0" * 64},
        {"hub": "None"},
    ],
)
def test_approval_garbage_is_false(said: dict[str, object]) -> None:
    """No header, however broken, raises or passes; a moment that cannot be read is never fresh."""
    assert approval(**said) is False


def test_approval_without_a_moment_is_old_even_at_the_beginning_of_time() -> None:
    """A header that says nothing passes at no time."""
    nothing = hmac.new(b"approve-me", b"0." + BODY, hashlib.sha256).hexdigest()

    assert not approval(hax=f"v1={nothing}", now=0)
    assert not verify_approval("\ud800", BODY, hax=None, webhook=PLAIN, hub=None)


VECTORS = json.loads((Path(__file__).parents[3] / "sdk" / "conformance" / "signatures.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["verifies"], ids=lambda one: one["name"])
def test_signed_as_every_sdk_expects(vector: dict[str, Any]) -> None:
    """The vectors that the SDKs verify are what is sent."""
    body, headers, secret = vector["body"].encode(), vector["headers"], vector["secret"]
    at = int(headers["webhook-timestamp"])
    signed = sign_standard(secret, webhook_id=headers["webhook-id"], timestamp=at, body=body)

    assert signed in headers["webhook-signature"].split(" ")
    assert sign_agentfield(secret, body) == headers["X-AgentField-Signature"]
