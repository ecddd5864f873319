"""The short form of `make fuzz`: a few cases for every route, the coverage phase for some, links followed."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.fuzz import campaign
from tests.fuzz.document import closed
from tests.fuzz.reasons import REASONS, reason_of
from tests.integration.api.serving import Apart, Json

KEY = "fuzz-key-of-nobody-else"
HOUSE = {
    "api_key": KEY,
    "sync_wait_seconds": 0.5,
    "jobs_target": campaign.TARGET,
    "agent_target": campaign.TARGET,
    "endpoints_max": 1_000,
    "wrong_keys_per_minute": 1_000_000,
}
SEED = 20_251
EVERY = 12
"""Of so many paths one goes through the coverage phase here; the long form covers all."""
SMALL = 8_000
"""Characters of what is said of a path that counts as small: of the others the phase has a thousand cases each."""


@pytest.fixture
def document(house: Apart) -> Json:
    """What the server says of itself, with every answer closed."""
    answer = httpx.get(f"{house.url}/openapi.json", headers={"X-API-Key": KEY}, trust_env=False)
    return closed(answer.json())


def some(document: Json) -> Json:
    """The document with a few of its paths: whole ones, for a path says which methods it takes, but not the largest."""
    small = [path for path, methods in sorted(document["paths"].items()) if len(json.dumps(methods)) < SMALL]
    return document | {"paths": {path: document["paths"][path] for path in small[::EVERY]}}


@pytest.mark.timeout(300)
def test_the_document_is_exact(house: Apart, document: Json, tmp_path: Path) -> None:
    """Valid requests are accepted, invalid ones refused, and every answer is what the document says."""
    for name, part, phases in (
        ("coverage", some(document), ("examples", "coverage")),
        ("fuzzing", document, ("fuzzing", "stateful")),
    ):
        told = campaign.run(house.url, KEY, part, tmp_path / name, examples=1, seed=SEED, phases=phases)

        assert told.cases > 100, told.text[-5_000:]
        assert not told.failures, told.text[-20_000:]
        assert told.status == 0, told.text[-20_000:]


def test_a_drift_is_seen(house: Apart, document: Json, tmp_path: Path) -> None:
    """The campaign can fail: here of a member that the document does not know."""
    path = "/api/v1/retention"
    drifted = document | {"paths": {path: document["paths"][path]}}
    schema = drifted["components"]["schemas"]["RetentionAnswer"]
    del schema["properties"]["keep_days"]
    schema["required"].remove("keep_days")

    told = campaign.run(house.url, KEY, drifted, tmp_path, examples=1, seed=SEED, phases=("coverage",))

    assert told.status != 0
    assert told.failures["response_schema_conformance"] > 0


def test_a_reason_is_narrow() -> None:
    """None of them excuses a refusal that names nothing, an answer of a form, or an error of ours."""
    assert all(reason_of("ServerError", "POST /api/v1/keys", 500, {"code": code}) is None for code in ("", "error"))
    assert reason_of("RejectedPositiveData", "POST /api/v1/keys", 422, {"code": "invalid", "where": "body"}) is None
    assert all(one.why.endswith(".") for one in REASONS)
