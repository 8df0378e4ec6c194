"""People's files as models of pydantic: it makes their JSON Schemas and, in the tests, has to read the same as their reader."""

from __future__ import annotations

import warnings
from types import FunctionType
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic._internal import _generate_schema

from runner.protocol.file_models import FileModel

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


FileModel.__get_pydantic_core_schema__ = classmethod(_as_pydantic)  # type: ignore[attr-defined]
