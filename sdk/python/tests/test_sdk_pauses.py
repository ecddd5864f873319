"""Pauses and drains as a program sees them."""

from __future__ import annotations

import pytest

from controlplane_sdk import Client, NotFound, RequestRefused


async def test_each_scope_has_its_door(double):
    """What is named goes into the path, the reason into the body."""
    async with Client(double.url) as client:
        of_reasoner = await client.pauses.pause(reasoner="n.f", reason="why")
        of_node = await client.pauses.resume(node="n")
        of_all = await client.pauses.pause(all=True)
    sent = [(path, body) for _, path, _, body in double.heard]

    assert sent == [("/reasoners/n.f/pause", {"reason": "why"}), ("/nodes/n/resume", {}), ("/pause", {})]
    assert (of_reasoner.scope, of_reasoner.paused, of_reasoner.queued, of_reasoner.running) == ("reasoner", True, 3, 1)
    assert (of_node.name, of_node.paused, of_node.still_paused_by[0].scope) == ("n", False, "all")
    assert (of_all.scope, of_all.name) == ("all", None)


async def test_a_lost_answer_is_asked_again(double):
    """To pause twice is to pause once."""
    double.misbehave.append(("/nodes/n/pause", "lose the answer"))
    async with Client(double.url) as client:
        assert (await client.pauses.pause(node="n")).paused

    assert double.said("/nodes/n/pause") == [{}, {}]


@pytest.mark.parametrize("named", [{}, {"node": "n", "all": True}, {"node": "n", "reasoner": "n.f"}])
async def test_one_must_be_named(double, named):
    """Nothing is sent of what may be a mistake."""
    async with Client(double.url) as client:
        with pytest.raises(ValueError, match="one of"):
            await client.pauses.pause(**named)

    assert double.heard == []


async def test_the_list(double):
    """Page by page."""
    async with Client(double.url) as client:
        first = await client.pauses.list(limit=1)
        rest = await client.pauses.list(limit=1, cursor=first.next_cursor)

    assert [(one.scope, one.reason) for one in first.items] == [("all", "why")]
    assert (rest.items, rest.next_cursor) == ([], None)


async def test_a_node_drains(double):
    """How many processes drain, and what they still run; an unknown node is an error."""
    async with Client(double.url) as client:
        told = await client.nodes.drain("n", "update")
        await client.nodes.undrain("n")
        with pytest.raises(NotFound):
            await client.nodes.drain("nobody")

    assert (told.draining, told.draining_running) == (2, 1)
    assert double.said("/nodes/n/drain") == [{"reason": "update"}]


async def test_a_node_is_forgotten(double):
    """One that is not there, and one that something needs, are errors."""
    async with Client(double.url) as client:
        await client.nodes.forget("old one")
        with pytest.raises(NotFound):
            await client.nodes.forget("nobody")
        with pytest.raises(RequestRefused, match="node_in_use"):
            await client.nodes.forget("busy")

    assert next((method, path) for method, path, *_ in double.heard) == ("DELETE", "/nodes/old one")
