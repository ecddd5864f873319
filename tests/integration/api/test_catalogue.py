"""The catalogue: what whoever submits by itself knows of a target, and what it costs those who only wait."""

from __future__ import annotations

from controlplane.api.catalogue import Catalogue
from controlplane.domain.limit import Rule
from controlplane.postgres.listen import Hints
from controlplane.postgres.pool import Connection, Pool
from controlplane.reads import nodes
from controlplane.reads.nodes import CATALOGUE, REGISTRATIONS
from controlplane.stages import limit, register
from controlplane.stages.register import Node, Reasoner
from tests.integration.api.counting import counted
from tests.integration.api.serving import until
from tests.make import NAMESPACE, STOCK, TARGET

NODE = "n"


async def registers(conn: Connection, *targets: str) -> None:
    served = [Reasoner(target=target, reasoner_id=target.partition(".")[2], type="reasoner") for target in targets]
    node = Node(namespace=NAMESPACE, id=NODE, transport="pull", version="1", reasoners=served)
    await register.register(conn, node, bucket=0)


def of(pool: Pool, **options: float) -> tuple[Catalogue, Hints]:
    """A catalogue, and what it hears."""
    hints = Hints(pool, None)
    told = hints.waiter("registered")
    told.__enter__()
    return Catalogue(pool, STOCK, told, **options), hints


async def test_a_line_that_nobody_has_looked_for(conn: Connection, pool: Pool) -> None:
    """A server that was asked for nothing knows the limits of today all the same."""
    await limit.put(conn, 0, Rule(concurrency_max=1), namespace=NAMESPACE, key="node:n")
    catalogue, _ = of(pool)

    assert catalogue.line(NAMESPACE, TARGET, None) is None
    assert await catalogue.line_now(NAMESPACE, TARGET, None) == "node:n"


async def test_who_only_waits_asks_nothing(conn: Connection, database: str) -> None:
    """What a node serves is read once, and then from memory for as long as nobody is heard to register."""
    await registers(conn, TARGET)
    async with counted(database) as (pool, said):
        catalogue, _ = of(pool)
        for _ in range(10):
            assert await catalogue.targets_of(NAMESPACE, NODE) == (TARGET,)

    assert said.count(CATALOGUE) == said.count(REGISTRATIONS) == 1


async def test_a_look_reads_one_row(conn: Connection, database: str) -> None:
    """Where nothing was registered since, a look reads none of the targets again."""
    await registers(conn, TARGET)
    async with counted(database) as (pool, said):
        catalogue, _ = of(pool, look_seconds=0)
        for _ in range(10):
            await catalogue.targets_of(NAMESPACE, NODE)

    assert (said.count(CATALOGUE), said.count(REGISTRATIONS)) == (1, 10)


async def test_a_registration_that_is_not_heard_of(conn: Connection, pool: Pool) -> None:
    """When the hint is lost the next look finds what was registered elsewhere."""
    await registers(conn, TARGET)
    catalogue, _ = of(pool, look_seconds=0)
    await catalogue.targets_of(NAMESPACE, NODE)
    await registers(conn, "n.other")

    assert await catalogue.targets_of(NAMESPACE, NODE) == (TARGET, "n.other")


async def test_a_registration_that_commits_late(conn: Connection, pool: Pool) -> None:
    """One that began before the newest that is known, and commits after it, is found as well."""
    await registers(conn, "n.late", "n.first")
    async with pool.acquire() as slow, slow.transaction():
        await slow.execute("select")  # from here on its clock stands still
        await registers(conn, "n.first")
        before = await nodes.registrations(conn, 0)
        await slow.execute("update reasoners set updated_at = clock() where target = 'n.late'")

    assert await nodes.registrations(conn, 0) != before


async def test_a_registration_that_is_heard_of(conn: Connection, pool: Pool) -> None:
    """A hint is enough, long before the next look."""
    await registers(conn, TARGET)
    catalogue, hints = of(pool, look_seconds=3_600)
    await catalogue.targets_of(NAMESPACE, NODE)
    await registers(conn, "n.other")
    hints.wake("registered")

    async def both() -> bool:
        return await catalogue.targets_of(NAMESPACE, NODE) == (TARGET, "n.other")

    await until(both)
