"""From a function's signature to a JSON schema, and from a caller's JSON to the function's arguments."""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.json_schema import PydanticJsonSchemaWarning

from controlplane_sdk.context import Context
from controlplane_sdk.errors import InvalidInput

_ERRORS_SHOWN = 20


class Signature:
    """What a function takes and gives. A parameter annotated with `Context` is passed in, not part of the schema."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Raises: TypeError when a caller's JSON could not fill the parameters."""
        self._parameters = inspect.signature(function).parameters
        self._hints = _hints(function)
        self._context_names = [name for name, hint in self._hints.items() if name != "return" and _is_context(hint)]
        self._model = self._arguments_model(function.__qualname__)

    def bind(self, data: Any, context: Context) -> tuple[list[Any], dict[str, Any]]:
        """The positional and keyword arguments for this input, coerced to their types. Raises: InvalidInput."""
        if data is None:
            data = {}
        if not isinstance(data, dict):
            raise InvalidInput(f"the input must be a JSON object with the arguments by name, not {type(data).__name__}")
        try:
            values = self._model.model_validate(data)
        except ValidationError as error:
            raise _invalid(error) from None
        except RecursionError:
            raise InvalidInput("the input is nested too deeply") from None
        return self._spread(values, context)

    def _spread(self, values: BaseModel, context: Context) -> tuple[list[Any], dict[str, Any]]:
        positional: list[Any] = []
        keywords: dict[str, Any] = dict(values.model_extra or {})
        for number, parameter in enumerate(self._parameters.values()):
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            value = context if parameter.name in self._context_names else getattr(values, f"argument_{number}")
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(value)
            else:
                keywords[parameter.name] = value
        return positional, keywords

    @property
    def names(self) -> list[str]:
        """The arguments that a caller gives, by name."""
        return [name for name in self._parameters if name not in self._context_names]

    def input_schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments; a plain object where a type has no schema."""
        return _schema(lambda: self._model.model_json_schema(mode="validation")) or {"type": "object"}

    def output_schema(self) -> dict[str, Any] | None:
        """The JSON schema of the result; None where the annotation is missing or has no schema."""
        if "return" not in self._hints:
            return None
        return _schema(lambda: TypeAdapter(self._hints["return"]).json_schema(mode="serialization"))

    def _arguments_model(self, title: str) -> type[BaseModel]:
        fields: dict[str, Any] = {}
        takes_any = False
        for number, parameter in enumerate(self._parameters.values()):
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise TypeError(f"{title}: *{parameter.name} cannot be filled from a JSON object; take a list instead")
            if parameter.kind is parameter.VAR_KEYWORD:
                takes_any = True
            elif parameter.name not in self._context_names:
                # Named by number: a parameter may be called `json` or `model_config`, a pydantic field may not.
                default = ... if parameter.default is parameter.empty else parameter.default
                fields[f"argument_{number}"] = (
                    self._hints.get(parameter.name, Any),
                    Field(default=default, alias=parameter.name, title=parameter.name),
                )
        config = ConfigDict(extra="allow" if takes_any else "forbid", arbitrary_types_allowed=False, title=title)
        try:
            return create_model("Arguments", __config__=config, **fields)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise TypeError(f"{title}: the parameters cannot be read from JSON: {error}") from error


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        why = f"the annotation {error.name!r} cannot be resolved; define or import it at the top of the module"
        raise TypeError(f"{function.__qualname__}: {why}") from error


def _is_context(hint: Any) -> bool:
    return hint is Context or Context in typing.get_args(hint)


def _schema(make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    with warnings.catch_warnings():
        # A default that is not JSON is left out of the schema; that is all there is to say about it.
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
        try:
            return make()
        except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError):
            return None


def _invalid(error: ValidationError) -> InvalidInput:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    shown = found[:_ERRORS_SHOWN]
    lines = [f"{'.'.join(map(str, item['loc'])) or 'input'}: {item['msg']}" for item in shown]
    if len(found) > len(shown):
        lines.append(f"and {len(found) - len(shown)} more")
    details = [{"where": list(item["loc"]), "message": item["msg"], "type": item["type"]} for item in shown]
    return InvalidInput("; ".join(lines), details=details)
