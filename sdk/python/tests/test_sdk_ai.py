"""app.ai: a model behind an OpenAI-compatible server, or a callable of one's own."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from controlplane_sdk import Agent, AIUnavailable


class Summary(BaseModel):
    title: str
    points: list[str]


async def test_a_callable_replaces_the_model():
    """It gets system, user, model and whatever else was given, and its text is the answer."""

    async def echo(*, system: str | None, user: str | None, model: str | None, **kw: Any) -> str:
        return f"{system}|{user}|{model}|{kw}"

    app = Agent("n", ai=echo)

    assert await app.ai("hi", system="s", temperature=0) == "s|hi|None|{'temperature': 0}"


async def test_a_schema_makes_the_answer_typed():
    """The model is told the schema; a fenced answer is read too, one that does not fit is an error."""
    asked = []

    async def reply(*, system: str, user: str, model: str | None) -> str:
        asked.append(system)
        return user

    app = Agent("n", ai=reply)
    answer = await app.ai(user='```json\n{"title": "t", "points": ["a"]}\n```', schema=Summary)

    assert answer == Summary(title="t", points=["a"])
    assert "points" in asked[0]
    with pytest.raises(AIUnavailable, match="does not fit Summary"):
        await app.ai(user="not json", schema=Summary)


async def test_an_openai_compatible_server_is_asked(double, monkeypatch):
    """Address, key and model come from the environment; text and typed answers come back."""
    monkeypatch.setenv("OPENAI_BASE_URL", double.url + "/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("OPENAI_MODEL", "small")
    app = Agent("n", double.url)
    text = await app.ai(system="s", user="words", model=None)
    double.says = '{"title": "t", "points": []}'
    typed = await app.ai(user="words", schema=Summary)
    await app.aclose()
    first, second = double.said("/v1/chat/completions")

    assert (text, typed) == ("summary of words", Summary(title="t", points=[]))
    assert first == {
        "model": "small",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "words"}],
    }
    assert second["response_format"]["type"] == "json_schema"


async def test_without_a_key_the_error_says_what_to_do(monkeypatch):
    """It names the extra and the variables."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(AIUnavailable, match=r"controlplane-sdk\[ai\].*OPENAI_API_KEY.*OPENAI_BASE_URL"):
        await Agent("n").ai(user="hi")
