"""JSON bytes that every parser accepts: no NaN, no Infinity, no lone surrogates."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic_core import PydanticSerializationError, from_json, to_json

from controlplane_sdk.errors import NotJson


def encode(value: Any) -> bytes:
    """The value as compact UTF-8 JSON; models, dataclasses, dates, enums and the like are written as pydantic does.

    Raises: NotJson.
    """
    try:
        encoded = to_json(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    # The fast encoder writes NaN without complaint. The words may also stand in a string, so look again, slowly.
    if b"NaN" in encoded or b"Infinity" in encoded:
        json.loads(encoded, parse_constant=_refuse)
    return encoded


def _refuse(constant: str) -> NoReturn:
    raise NotJson(f"{constant} is not JSON")


def decode(encoded: bytes) -> Any:
    """The value that these bytes say. Raises: ValueError."""
    try:
        return from_json(encoded)
    except ValueError:
        # It gives up below about 200 levels; the standard library goes on.
        try:
            return json.loads(encoded)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def printable(text: str, limit: int) -> str:
    """The text without what UTF-8 cannot say, cut in the middle to at most `limit` characters."""
    clean = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(clean) <= limit:
        return clean
    half = limit // 2
    return f"{clean[:half]}\n… {len(clean) - 2 * half} characters left out …\n{clean[-half:]}"
