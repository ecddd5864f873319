"""Triggers as a program sees them, and as the code of a node declares them."""

from __future__ import annotations

import pytest

from controlplane_sdk import Agent, Client, RequestRefused
from controlplane_sdk.triggers import cron, webhook


def agent(make_agent, *triggers) -> Agent:
    app = make_agent()

    @app.reasoner(triggers=triggers)
    async def f(event: dict) -> None: ...

    return app


async def test_what_is_left_out_is_not_sent(double):
    """The control plane's defaults are the control plane's."""
    async with Client(double.url) as client:
        made = await client.triggers.create("t", "n.f", preset="hmac", secret="s", header="X-S")

    said = {"name": "t", "target": "n.f", "preset": "hmac", "secret": "s", "header": "X-S"}
    assert double.said("/triggers") == [said]
    assert (made.name, made.paused) == ("t", False)


async def test_replacing_is_changing_what_is_there(double):
    """Also what is not said any more: it is as the defaults are."""
    async with Client(double.url) as client:
        await client.triggers.create("t", "n.f", preset="github", secret="s", event_types=["push"])
        with pytest.raises(RequestRefused):
            await client.triggers.create("t", "n.g", preset="github", secret="s")
        made = await client.triggers.create("t", "n.g", preset="github", secret="s", replace=True)

    assert (made.target, made.event_types, made.arguments) == ("n.g", (), {"event": ""})


async def test_replay_starts_once(double):
    """Sent again after a lost answer it is one execution, and the handle is its."""
    double.misbehave.append(("/replay", "lose the answer"))
    async with Client(double.url) as client:
        await client.triggers.create("t", "n.f", preset="github", secret="s")
        handle = await client.triggers.replay("t", "tev_1")
        double.finish(handle.execution_id, status="succeeded", result=2)

        assert await handle.result() == 2
    assert len(double.executions) == 1


async def test_code_declares_what_starts_it(double, make_agent, serving, monkeypatch):
    """At every start what it says is made true; a second start with the same code changes nothing."""
    monkeypatch.setenv("HOOK_SECRET", "s-1")
    hook = webhook(slug="gh", preset="github", secret_env="HOOK_SECRET", event_types=["push"])
    daily = cron("0 9 * * *", tz="Europe/Berlin", name="daily")
    for _ in range(2):
        async with serving(agent(make_agent, hook, daily)):
            await double.until(lambda: double.said("/schedules/code:n:f:daily"))
        double.schedules["code:n:f:daily"] |= {"paused": True}
    made = double.triggers["gh"]

    assert (made["target"], made["secret"], made["event_types"], made["managed_by"]) == ("n.f", "s-1", ["push"], "n")
    assert double.schedules["code:n:f:daily"]["time_zone"] == "Europe/Berlin"


async def test_what_the_code_no_longer_says_is_paused(double, make_agent, serving, monkeypatch):
    """And not deleted; put back it goes on. What others have made is left alone."""
    monkeypatch.setenv("HOOK_SECRET", "s-1")
    hook = webhook(slug="gh", preset="github", secret_env="HOOK_SECRET")
    others = {"target": "n.f", "preset": "github", "paused": False}
    double.triggers["by-hand"] = {"name": "by-hand"} | others
    double.schedules["by-hand"] = {"name": "by-hand", "target": "n.f", "cron": "* * * * *", "paused": False}
    async with serving(agent(make_agent, hook, cron("* * * * *", name="c"))):
        await double.until(lambda: "code:n:f:c" in double.schedules)

    async with serving(agent(make_agent)):
        await double.until(lambda: double.schedules["code:n:f:c"]["paused"])
    paused = dict(double.triggers["gh"])
    async with serving(agent(make_agent, hook)):
        await double.until(lambda: not double.triggers["gh"]["paused"])

    assert (paused["paused"], paused["paused_reason"]) == (True, "removed from code")
    assert not double.triggers["by-hand"]["paused"]
    assert not double.schedules["by-hand"]["paused"]


async def test_what_somebody_has_paused_stays_so(double, make_agent, serving, monkeypatch, caplog):
    """A restart in the middle of an incident must not open the door again; it is said in the log."""
    monkeypatch.setenv("HOOK_SECRET", "s-1")
    hook = webhook(slug="gh", preset="github", secret_env="HOOK_SECRET")
    async with serving(agent(make_agent, hook)):
        await double.until(lambda: "gh" in double.triggers)
    double.triggers["gh"] |= {"paused": True, "paused_reason": "incident"}

    async with serving(agent(make_agent, hook)):
        await double.until(lambda: "webhook gh is paused" in caplog.text)

    assert double.triggers["gh"]["paused"]


async def test_the_slug_of_another_is_left_alone(double, make_agent, serving, monkeypatch, caplog):
    """It is said in the log, and the node serves all the same."""
    monkeypatch.setenv("HOOK_SECRET", "s-1")
    double.triggers["gh"] = {"name": "gh", "target": "m.g", "preset": "stripe", "managed_by": "m", "paused": False}

    async with serving(agent(make_agent, webhook(slug="gh", preset="github", secret_env="HOOK_SECRET"))):
        await double.until(lambda: "the slug is taken by m" in caplog.text)

    assert double.triggers["gh"]["target"] == "m.g"


async def test_a_secret_that_is_not_there_stops_the_start(make_agent, monkeypatch):
    """Loudly, and before anything is registered."""
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    app = agent(make_agent, webhook(slug="gh", preset="github", secret_env="HOOK_SECRET"))

    with pytest.raises(RuntimeError, match="HOOK_SECRET"):
        await app.serve()


async def test_a_slug_stands_once(make_agent, monkeypatch):
    """Two of one slug in one node are a mistake."""
    monkeypatch.setenv("HOOK_SECRET", "s-1")
    hook = webhook(slug="gh", preset="github", secret_env="HOOK_SECRET")

    with pytest.raises(ValueError, match="gh twice"):
        await agent(make_agent, hook, hook).serve()
