"""`app.ai`: one question to a language model, the answer as text or as a pydantic model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from pydantic import BaseModel, ValidationError

from controlplane_sdk.errors import AIUnavailable

MODEL = "gpt-4o-mini"
_HOW = (
    "app.ai has no model: install controlplane-sdk[ai] and set OPENAI_API_KEY (OPENAI_BASE_URL for another server "
    "than OpenAI's, where any text may do as a key, OPENAI_MODEL), or give Agent(ai=…) an async callable of your own"
)
Backend = Callable[..., Awaitable[str]]
Schema = TypeVar("Schema", bound=BaseModel)

_FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)


class AI:
    """Asks `backend`, an async callable (system=, user=, model=, **kw) -> str, else an OpenAI-compatible server."""

    def __init__(self, backend: Backend | None = None) -> None:
        self._backend = backend
        self._client: Any = None

    @overload
    async def __call__(
        self,
        user: str | None = ...,
        *,
        system: str | None = ...,
        model: str | None = ...,
        schema: None = ...,
        **kw: Any,
    ) -> str: ...
    @overload
    async def __call__(
        self,
        user: str | None = ...,
        *,
        system: str | None = ...,
        model: str | None = ...,
        schema: type[Schema],
        **kw: Any,
    ) -> Schema: ...

    async def __call__(
        self,
        user: str | None = None,
        *,
        system: str | None = None,
        model: str | None = None,
        schema: type[BaseModel] | None = None,
        **kw: Any,
    ) -> Any:
        """The answer as text, or as an instance of `schema`. Raises: AIUnavailable, and what the backend raises."""
        if self._backend is not None:
            text = await self._backend(system=_with_schema(system, schema), user=user, model=model, **kw)
            return text if schema is None else _parse(text, schema)
        return await self._ask_openai(system, user, model, schema, kw)

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _ask_openai(
        self,
        system: str | None,
        user: str | None,
        model: str | None,
        schema: type[BaseModel] | None,
        kw: dict[str, Any],
    ) -> Any:
        client = self._openai()
        said = [("system", system), ("user", user)]
        asked = {
            "model": model or os.environ.get("OPENAI_MODEL") or MODEL,
            "messages": [{"role": role, "content": content} for role, content in said if content is not None],
        } | kw
        if schema is None:
            completion = await client.chat.completions.create(**asked)
        else:
            completion = await client.chat.completions.parse(response_format=schema, **asked)
        message = completion.choices[0].message
        if message.refusal:
            raise AIUnavailable(f"the model refused: {message.refusal}")
        if schema is None:
            return message.content or ""
        return message.parsed if message.parsed is not None else _parse(message.content or "", schema)

    def _openai(self) -> Any:
        if self._client is None:
            try:
                from openai import AsyncOpenAI  # noqa: PLC0415 - an extra: most nodes never ask a model
            except ImportError:
                raise AIUnavailable(_HOW) from None
            if not os.environ.get("OPENAI_API_KEY"):
                raise AIUnavailable(_HOW)
            self._client = AsyncOpenAI()
        return self._client


def _with_schema(system: str | None, schema: type[BaseModel] | None) -> str | None:
    if schema is None:
        return system
    wanted = json.dumps(schema.model_json_schema())
    asked = f"Answer with one JSON document that fits this JSON schema, and nothing else:\n{wanted}"
    return f"{system}\n\n{asked}" if system else asked


def _parse(text: str, schema: type[BaseModel]) -> BaseModel:
    found = _FENCED.match(text)
    try:
        return schema.model_validate_json(found[1] if found else text)
    except ValidationError as error:
        raise AIUnavailable(f"the answer does not fit {schema.__name__}: {error}") from error
