"""Endpoints as a program sees them."""

from __future__ import annotations

import pytest

from controlplane_sdk import Client, NotFound


async def test_a_secret_is_made_here(double):
    """Sent again after a lost answer it is the same request, and the secret is known."""
    double.misbehave.append(("/endpoints", "lose the answer"))
    async with Client(double.url) as client:
        made = await client.endpoints.create("e", "https://h", events=["execution.started"])

    first, second = double.said("/endpoints")
    assert first == second == {"name": "e", "url": "https://h", "events": ["execution.started"], "secret": made.secret}
    assert made.secret.startswith("whsec_")
    assert made.secret not in repr(made)


async def test_what_is_left_out_is_not_sent(double):
    """The control plane's defaults are the control plane's."""
    async with Client(double.url) as client:
        await client.endpoints.create("e", "https://h", secret="s")
        await client.endpoints.update("e", targets=["n"])
        rotated = await client.endpoints.rotate("e", overlap_seconds=0)

    assert double.said("/endpoints/e") == [{"targets": ["n"]}]
    assert double.said("/endpoints/e/rotate") == [{"secret": rotated.secret, "overlap_seconds": 0}]


async def test_its_life(double):
    """Disabled, enabled, tried, listed and deleted; then it is not there."""
    async with Client(double.url) as client:
        await client.endpoints.create("e", "https://h")
        states = [(await client.endpoints.disable("e", "moving")).enabled, (await client.endpoints.enable("e")).enabled]
        tried = await client.endpoints.test("e")
        [listed] = (await client.endpoints.list()).items
        await client.endpoints.delete("e")
        with pytest.raises(NotFound):
            await client.endpoints.get("e")

    assert states == [False, True]
    assert (tried.delivered, tried.response["status"], listed.name) == (True, 200, "e")


async def test_several_webhooks(double):
    """Each a URL or what it is told of."""
    hook = {"url": "https://b", "events": ["execution.started"]}
    async with Client(double.url) as client:
        await client.start("n.f", webhooks=["https://a", hook])

    [said] = double.said("/execute/async/n.f")
    assert said["webhooks"] == [{"url": "https://a"}, hook]
