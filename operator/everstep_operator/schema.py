"""Frozen dataclasses, their JSON and their OpenAPI schema: one declaration, three uses.

Pure. A field's type gives its shape, its `metadata` the limits and the words a user reads in
`kubectl explain`. snake_case in Python is camelCase in JSON. Unknown JSON keys are ignored: the
API server prunes them, and an older operator must read what a newer CRD lets through.
"""

import dataclasses
import re
import types
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

DURATION_PATTERN = r"^([0-9]+(d|h|m|s))+$"
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


class InvalidError(ValueError):
    """A value that the schema would have refused; `path` says where."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


def about(description: str, **limits: Any) -> dict[str, Any]:
    """Metadata of a field: its description and further OpenAPI keywords (`rules` are CEL)."""
    return {"description": description, **limits}


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def duration(text: str) -> timedelta:
    """`1h30m` and the like."""
    if not re.match(DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is no duration: write 30s, 5m, 24h or 7d")
    parts = re.findall(r"([0-9]+)([dhms])", text)
    return timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in parts))


def duration_text(value: timedelta) -> str:
    left, text = int(value.total_seconds()), ""
    for unit, seconds in _UNITS.items():
        count, left = divmod(left, seconds)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def to_json(value: Any) -> Any:
    """A dataclass as JSON; None and empty collections are left out, as the API server has it."""
    if dataclasses.is_dataclass(value):
        pairs = ((camel(f.name), getattr(value, f.name)) for f in dataclasses.fields(value))
        return {key: to_json(item) for key, item in pairs if item not in (None, (), {})}
    match value:
        case timedelta():
            return duration_text(value)
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        case tuple() | list():
            return [to_json(item) for item in value]
        case Mapping():
            return {key: to_json(item) for key, item in value.items()}
        case _:
            return value


def from_json(kind: type[T], value: Any, path: str = "") -> T:
    """The dataclass of a JSON object, with defaults filled in."""
    if not isinstance(value, Mapping):
        raise InvalidError(path, "must be an object")
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        key = camel(field.name)
        if value.get(key) is not None:
            given[field.name] = _read(hints[field.name], value[key], f"{path}.{key}".lstrip("."))
        elif not _has_default(field):
            raise InvalidError(f"{path}.{key}".lstrip("."), "is required")
    return kind(**given)


def _read(kind: Any, value: Any, path: str) -> Any:
    kind = _required(kind)
    try:
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return from_json(kind, value, path)
        if get_origin(kind) is tuple:
            return tuple(_read(get_args(kind)[0], item, path) for item in value)
        if kind is timedelta:
            return duration(value)
        if kind is datetime:
            return datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise (
            error if isinstance(error, InvalidError) else InvalidError(path, str(error))
        ) from error
    if kind in (str, int, bool) and not isinstance(value, kind):
        raise InvalidError(path, f"must be of type {kind.__name__}")
    return value


def openapi(kind: type) -> dict[str, Any]:
    """The structural schema of a dataclass."""
    hints = get_type_hints(kind)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for field in dataclasses.fields(kind):
        properties[camel(field.name)] = _property(field, hints[field.name])
        if not _has_default(field):
            required.append(camel(field.name))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return schema | ({"required": required} if required else {})


def _property(field: "dataclasses.Field[Any]", kind: Any) -> dict[str, Any]:
    meta = dict(field.metadata)
    rules = meta.pop("rules", ())
    schema = _shape(_required(kind)) | meta
    if rules:
        schema["x-kubernetes-validations"] = [
            {"rule": rule, "message": message} for rule, message in rules
        ]
    default = field.default
    if isinstance(default, timedelta) or (default and isinstance(default, str | int)):
        schema["default"] = to_json(default)
    elif default is False or (default == 0 and isinstance(default, int)):
        schema["default"] = default
    elif dataclasses.is_dataclass(default):
        schema["default"] = {}
    return schema


def _shape(kind: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return openapi(kind)
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _shape(get_args(kind)[0])}
    simple: dict[Any, dict[str, Any]] = {
        str: {"type": "string"},
        bool: {"type": "boolean"},
        int: {"type": "integer", "format": "int64"},
        timedelta: {"type": "string", "pattern": DURATION_PATTERN, "maxLength": 32},
        datetime: {"type": "string", "format": "date-time"},
    }
    return dict(simple.get(kind, {"type": "object"}))


def _required(kind: Any) -> Any:
    """`X | None` without the None: optional fields are simply not required."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(part for part in get_args(kind) if part is not types.NoneType)
    return kind


def _has_default(field: "dataclasses.Field[Any]") -> bool:
    return (
        field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    )
