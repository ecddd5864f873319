# ruff: noqa: F841
import hashlib
import hmac

SECRET = b"whsec_your_signing_secret"


def verify(raw_body: bytes, signature_header: str) -> bool:
    expected = "sha256=" + hmac.new(SECRET, raw_body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, signature_header)


# In any handler that gives you the raw body and headers:
def handle(raw_body: bytes, headers: dict) -> tuple[int, str]:
    sig = headers.get("X-AgentField-Signature", "")
    if not verify(raw_body, sig):
        return 401, "bad signature"
    import json

    payload = json.loads(raw_body)
    if payload["event"] == "execution.completed":
        result = payload["result"]
        # ... store it, notify a user, kick off the next step
    elif payload["event"] == "execution.failed":
        err = payload.get("error_message")
        # ... alert, requeue, whatever your ops need
    return 200, "ok"
