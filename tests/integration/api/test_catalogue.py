"""The catalogue: what whoever submits by itself knows of a target, also on a server that has read nothing yet."""

from __future__ import annotations

from controlplane.api.catalogue import Catalogue
from controlplane.domain.limit import Rule
from controlplane.postgres.pool import Connection, Pool
from controlplane.stages import limit
from tests.make import NAMESPACE, STOCK, TARGET


async def test_a_line_that_nobody_has_looked_for(conn: Connection, pool: Pool) -> None:
    """A server that was asked for nothing knows the limits of today all the same."""
    await limit.put(conn, 0, Rule(concurrency_max=1), namespace=NAMESPACE, key="node:n")
    catalogue = Catalogue(pool, STOCK)

    assert catalogue.line(NAMESPACE, TARGET, None) is None
    assert await catalogue.line_now(NAMESPACE, TARGET, None) == "node:n"
