"""People's files as models of pydantic: it makes their JSON Schemas and, in the tests, has to read the same as their reader."""

from __future__ import annotations

import warnings
from types import FunctionType
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic._internal import _generate_schema

from runner.protocol import state, strict_yaml
from runner.protocol.file_models import AfterValidator, BeforeValidator, Between, FileModel, WithJsonSchema

# Before Python 3.12 it asks for typing_extensions' TypedDict, for keys that are read-only; ours has none, and takes 3 ms to load.
_generate_schema._SUPPORTS_TYPEDDICT = True

warnings.filterwarnings("ignore", 'Field name "schema"')  # of the event `created`

_MADE: dict[type[FileModel], type[BaseModel]] = {}


def model_of(model: type[FileModel]) -> type[BaseModel]:
    """Return the pydantic model of the same name, keys and validators."""
    if model in _MADE:
        return _MADE[model]
    looks: dict[str, Any] = {}
    for name, mode in model.model_validators.items():
        method = getattr(model, name)
        looks[name] = model_validator(mode=mode)(getattr(method, "__func__", method))  # type: ignore[call-overload]
    kept = {
        name: one
        for base in reversed(model.__mro__[: model.__mro__.index(FileModel)])
        for name, one in vars(base).items()
        if isinstance(one, FunctionType | property) and name not in looks and name != "__init__"
    }
    config = ConfigDict(frozen=True, extra="forbid", defer_build=True) | getattr(model, "__pydantic_config__", {})
    base = type("Base", (BaseModel,), {**kept, "model_config": config})
    hints = get_type_hints(model, include_extras=True)
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        given = dict(field.given)
        if isinstance(default := given.get("default"), FileModel):
            given["default"] = model_of(type(default)).model_construct(**vars(default))
        fields[name] = (hints[name], Field(**given))
    made: type[BaseModel] = create_model(
        model.__name__,
        __base__=base,
        __module__=model.__module__,
        __doc__=model.__doc__,
        __validators__=looks,
        **fields,
    )
    return _MADE.setdefault(model, made)


def _as_pydantic(cls: type[FileModel], source: Any, handler: Any) -> Any:
    return handler.generate_schema(model_of(cls))


def _before(self: BeforeValidator, source: Any, handler: Any) -> dict[str, Any]:
    given = get_args(source)[0] | source if self is _ONE_OR_MANY else self.input
    schema = {"type": "function-before", "function": _plain(self), "schema": handler(source)}
    return schema | ({"json_schema_input_schema": handler.generate_schema(given)} if given else {})


def _after(self: AfterValidator, source: Any, handler: Any) -> dict[str, Any]:
    return {"type": "function-after", "function": _plain(self), "schema": handler(source)}


def _between(self: Between, source: Any, handler: Any) -> dict[str, Any]:
    bound: dict[str, Any] = {"type": source.__name__.lower(), "gt" if self.above else "ge": self.least}
    bound |= {"le": self.most} if self.most is not None else {}
    inner = handler(source)
    return inner | bound if inner["type"] == bound["type"] else {"type": "chain", "steps": [inner, bound]}


def _plain(mark: BeforeValidator | AfterValidator) -> dict[str, Any]:
    return {"type": "no-info", "function": mark.function}


def _shown(self: AfterValidator | WithJsonSchema, schema: Any, handler: Any) -> dict[str, Any]:
    return dict(self.schema) if self.schema is not None else handler(schema)


_ONE_OR_MANY = get_args(strict_yaml.OneOrMany)[1]
_AS_PYDANTIC: dict[Any, Any] = {
    FileModel: classmethod(_as_pydantic),
    BeforeValidator: _before,
    AfterValidator: _after,
    Between: _between,
    state.Steps: lambda source, handler: handler.generate_schema(dict[str, state.StepState]),
}
for kind, made_by in _AS_PYDANTIC.items():
    kind.__get_pydantic_core_schema__ = made_by
marks: tuple[Any, ...] = (AfterValidator, WithJsonSchema)
for mark in marks:
    mark.__get_pydantic_json_schema__ = _shown
