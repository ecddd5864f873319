"""A key ring that turns: servers with the old, both and the new key, on one database, and the command between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from controlplane.security.secrets import KeyRing
from tests.e2e.processes import until
from tests.e2e.test_cli import cli, line_of, serve_settings, started

pytestmark = pytest.mark.e2e

OLD, NEW = (KeyRing.generate() for _ in range(2))
OLD_KID, NEW_KID = (KeyRing.from_text(text).current for text in (OLD, NEW))
BEARER = {"Authorization": "Bearer a-secret"}


@contextmanager
def serving(database: str, ring: str) -> Iterator[httpx.Client]:
    """A server with this ring."""
    settings = serve_settings(database) | {"CONTROLPLANE_SECRET_KEY": ring}
    with started("serve", "--port", "0", **settings) as process:
        url = json.loads(line_of(process, "stderr", "server.ready"))["url"]
        with httpx.Client(base_url=url, headers={"X-API-Key": settings["CONTROLPLANE_API_KEY"]}) as client:
            yield client


def test_an_old_key_goes(database: str) -> None:
    """Sealed with the old, sealed anew with the new: the old one may go, and what comes in is still verified."""
    with serving(database, OLD) as client:
        node = {"id": "n", "reasoners": [{"id": "echo"}]}
        assert client.post("/api/v1/nodes/register", json=node).status_code == 201
        door = {"name": "door", "target": "n.echo", "preset": "bearer", "secret": "a-secret"}
        assert client.post("/api/v1/triggers", json=door).status_code == 201
        assert client.get("/health").json()["secrets"] == "openable"
    with serving(database, NEW) as client:
        until("health says so", lambda: client.get("/health").json()["secrets"] == "not_openable", seconds=20)
        assert client.post("/hooks/door", json={}, headers=BEARER).status_code == 503
    lacking = cli("secrets", "reseal", DATABASE_URL=database, CONTROLPLANE_SECRET_KEY=NEW)
    both = {"DATABASE_URL": database, "CONTROLPLANE_SECRET_KEY": f"{NEW},{OLD}"}
    done = json.loads(cli("secrets", "reseal", "--json", **both).out)
    status = cli("secrets", "status", **both)
    with serving(database, NEW) as client:
        came = client.post("/hooks/door", json={}, headers=BEARER)

    assert f"1 sealed with key {OLD_KID}, which is not on the ring" in lacking.err
    assert "1 could not be opened" in lacking.err
    assert (done["resealed"], done["removable"], done["missing"]) == (1, [OLD_KID], {})
    assert done["values"]["triggers.secret_sealed"] == {NEW_KID: 1}
    assert f"Key {OLD_KID} may be taken out of the ring" in status.err
    assert came.status_code == 202, came.text
