"""What a read of an execution says of its webhook."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.integration.api.serving import Answer, Api, Json, Receiver, until


async def test_every_attempt_is_read_with_the_execution(api: Api, receiver: Receiver) -> None:
    """In AgentField's shape, once it has ended: what was answered, and when."""
    session = await api.node()
    receiver.queue.append(Answer(status=410, body=b"gone"))
    id_ = await api.run(session, {"x": 1}, webhook={"url": receiver.url})

    async def events() -> list[Json]:
        found: list[Json] = (await api.read(id_))["webhook_events"]
        return found

    [failed] = await until(events)
    again = await api.client.post(f"/api/ui/v1/executions/{id_}/webhook/retry")

    async def both() -> list[Json] | None:
        found = await events()
        return found if len(found) == 2 else None

    first, second = await until(both)

    assert (again.status_code, again.json()) == (202, {"status": "queued"})
    assert first == failed
    assert (first["id"], first["status"], first["http_status"], first["response_body"]) == (1, "failed", 410, "gone")
    assert (second["id"], second["status"], second["http_status"]) == (2, "delivered", 200)
    assert {(one["execution_id"], one["event_type"]) for one in (first, second)} == {(id_, "execution.completed")}
    assert datetime.fromisoformat(first["created_at"]) <= datetime.fromisoformat(second["created_at"])


@pytest.mark.parametrize("with_webhook", [True, False])
async def test_nothing_is_said_before_or_without(api: Api, receiver: Receiver, with_webhook: bool) -> None:
    """A poll of what runs, or of what has no webhook, reads no deliveries."""
    session = await api.node()
    webhook = {"webhook": {"url": receiver.url}} if with_webhook else {}
    accepted = await api.submit(**webhook)
    waiting = await api.read(accepted["execution_id"])
    await api.finish(session, await api.take(session), 1)
    ended = await api.read(accepted["execution_id"])

    assert "webhook_events" not in waiting
    assert ("webhook_events" in ended) is with_webhook
