"""Validation of the names and types of settings."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, create_model, field_validator
from pydantic_core import PydanticKnownError

from refersam.errors import did_you_mean, field_problem


class StrictModel(BaseModel):
    """Base class of settings: rejects unknown names, infinite numbers, and booleans for numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject booleans for numbers, which pydantic would convert to 1 and 0."""
        if isinstance(value, bool) and info.field_name is not None:
            annotation = cls.model_fields[info.field_name].annotation
            kinds = get_args(annotation) or (annotation,)
            if bool not in kinds and (float in kinds or int in kinds):
                raise PydanticKnownError("float_type" if float in kinds else "int_type")
        return value


@cache
def _declaration(kind: type) -> type[StrictModel]:
    """Return a model of the fields that a configuration class declares itself, without those of its base."""
    names = {field.name for field in dataclasses.fields(kind)}
    types = {name: each for name, each in inspect.get_annotations(kind, eval_str=True).items() if name in names}
    fields: dict[str, Any] = {name: (each, None) for name, each in types.items()}
    return create_model(kind.__name__, __base__=StrictModel, **fields)


def check_fields(kind: type, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Convert values to the types that a configuration dataclass declares: "1e-6" to a number, "no" to False.

    Raises one ValueError for all unknown names and wrong types; `where` is the section name in the message.
    """
    declaration = _declaration(kind)
    prefix = f"{where}." if where else ""
    try:
        checked = declaration.model_validate(dict(values))
    except ValidationError as error:
        problems: dict[str, str] = {}  # a union reports one problem per type: use the first
        for detail in error.errors():
            name, *inner = map(str, detail["loc"])
            if detail["type"] == "extra_forbidden":
                hint = did_you_mean(name, declaration.model_fields) or f" (not a field of {kind.__name__})"
                problems[name] = f"unknown field {prefix}{name}{hint}"
            else:
                place = [part for part in inner if part.isdigit()]
                problems.setdefault(name, field_problem({**detail, "loc": (prefix + name, *place)}))
        raise ValueError("; ".join(problems.values())) from error
    return {name: getattr(checked, name) for name in values}
