"""Turns pydantic's errors into field errors that tell a person what to do."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from service.errors import FieldError, Invalid

Model = TypeVar("Model", bound=BaseModel)
_Fields = Mapping[str, FieldInfo]

#: pydantic's error type: what the value must be.
WANTED = {
    "string_type": "text",
    "string_unicode": "text without lone surrogates",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "an object",
    "literal_error": "text",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
#: pydantic's error type, for text that cannot be converted: our message.
UNREADABLE = {
    "uuid_parsing": "is not an id; ids look like 0198c0de-0000-7000-8000-000000000000",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_parsing": "must be a number",
    "string_pattern_mismatch": "does not have the right form",
}
LIMITS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def validate(model: type[Model], data: object) -> Model:
    """Make a `model` from decoded JSON. Raises `Invalid` with every error."""
    try:
        return model.model_validate(dict(data) if isinstance(data, Mapping) else data)
    except ValidationError as error:
        raise Invalid(field_errors_of(error, model)) from error


def field_errors_of(error: ValidationError, model: type[BaseModel]) -> list[FieldError]:
    """Each error: its field ("security_rules.0.protocol", or "body" for the whole) and what to do about it.

    The input is quoted only if it is a number or one of a few known words, never if it could be a secret.
    """
    return [_field_error(details, model) for details in error.errors(include_url=False)]


def _field_error(details: ErrorDetails, model: type[BaseModel]) -> FieldError:
    context = details.get("ctx", {})
    where = list(details["loc"])
    if details["type"] == "rule" and context["field"]:
        where[-1] = context["field"]
    fields = _fields_at(model, where[:-1])
    known = fields.get(str(where[-1])) if where else None
    return FieldError(".".join(map(str, where)) or "body", _message(details, context, fields, known))


def _message(details: ErrorDetails, context: Mapping[str, Any], fields: _Fields, known: FieldInfo | None) -> str:
    kind, given = details["type"], details["input"]
    if kind == "rule":
        return str(context["message"])
    if kind == "extra_forbidden":
        return f"is not a known field; {_nearest(str(details['loc'][-1]), fields, otherwise='leave it out')}"
    if kind in {"literal_error", "enum"} and known and isinstance(given, str):
        return _not_one_of(given, _choices(known.annotation))
    about = f" ({known.description})" if known and known.description else ""
    return _plain_message(kind, given, context, otherwise=details["msg"]) + about


def _plain_message(kind: str, given: Any, context: Mapping[str, Any], *, otherwise: str) -> str:
    if kind == "missing":
        return "is missing"
    if kind in WANTED:
        return f"must be {WANTED[kind]}, not {_name_of(given)}"
    if kind in UNREADABLE:
        return UNREADABLE[kind]
    if kind in LIMITS:
        key, words = LIMITS[kind]
        return f"is {given}, must be {words} {context[key]}"
    if kind == "string_too_long":
        return f"has {len(given)} characters, may have {context['max_length']}"
    return otherwise


def _not_one_of(given: str, choices: Sequence[str]) -> str:
    every = f"use one of {', '.join(choices)}"
    return f'is "{given[:40]}"; {_nearest(given, choices, otherwise=every)}'


def _nearest(word: str, known: Iterable[str], *, otherwise: str) -> str:
    by_folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold()[:100], by_folded, n=1)
    return f"did you mean {by_folded[near[0]]}?" if near else otherwise


def _choices(annotation: Any) -> list[str]:
    if isinstance(annotation, str):
        return [annotation]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(one.value) for one in annotation]
    return [choice for part in get_args(annotation) for choice in _choices(part)]


def _name_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {str: "text", int: "a number", float: "a number", list: "a list", tuple: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _fields_at(model: type[BaseModel], where: Sequence[int | str]) -> _Fields:
    fields: _Fields = model.model_fields
    for step in where:
        if isinstance(step, str):
            nested = _model_in(fields[step].annotation) if step in fields else None
            fields = nested.model_fields if nested else {}
    return fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
