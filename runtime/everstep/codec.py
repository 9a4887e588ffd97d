"""Payloads: values to bytes and back, guided by annotations, and never changed on the way.

A payload is strict JSON (codec id 1). What an annotation names is rebuilt from it: dataclasses, pydantic
models, datetime, UUID, Decimal, Enum, bytes, Path, … Where there is no annotation, only JSON values are
taken. A value that would come back as another one (NaN, tuples or integer keys without an annotation) is
rejected before it is recorded, so that the first run and a replay see the same. Nothing here can run code.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Generic, Literal, TypeVar, cast, get_type_hints
from uuid import UUID

import msgspec

from everstep.errors import PayloadError, UsageError
from everstep.texts import brief

JSON = 1
"""Codec id of strict JSON, as stored beside every payload."""

MAX_PAYLOAD = 1_048_576
"""Default limit of one payload in bytes."""

_KEPT = (bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal)
"""Types that JSON turns into strings: a value of one must come back as itself, not as its string."""

_ANNOTATE = "Annotate it with its type."
_HAND_OVER_JSON = (
    "Hand over that: `msgspec.to_builtins(value)` and `model.model_dump(mode='json')` make it. "
    "Who receives a message rebuilds it by `recv(as_type=…)`."
)

T = TypeVar("T")
Order = Literal["deterministic"] | None


class Payload(Generic[T]):
    """The codec of one place: a step's result, a workflow's result."""

    def __init__(
        self, annotation: Any, place: str, order: Order = None, remedy: str = _ANNOTATE
    ) -> None:
        self.place = place
        self._order = order
        self._remedy = remedy
        self._plain = annotation in (Any, object, inspect.Parameter.empty)
        try:
            self._decoder = msgspec.json.Decoder(
                Any if self._plain else annotation, dec_hook=_from_json
            )
        except (TypeError, NotImplementedError) as error:
            raise UsageError(
                f"{place}: {annotation!r} is not a type that a payload can be rebuilt from ({error}). "
                f"Use a dataclass, a pydantic model, or a type made of JSON values."
            ) from None

    def round_trip(self, value: Any, limit: int) -> tuple[bytes, T]:
        """Encode, and decode what was encoded: the pair (bytes to record, value to go on with).

        Raises PayloadError if the value cannot be recorded exactly, or takes more than `limit` bytes.
        """
        body = _encode(value, self.place, limit, self._order)
        decoded = self.decode(body)
        if self._plain and not _equal(decoded, value) and not _same_json(value, decoded):
            raise PayloadError(
                f"{self.place}: without an annotation only JSON values are taken, and {brief(value)} would "
                f"come back as {brief(decoded)}. {self._remedy}"
            )
        return body, decoded

    def decode(self, body: bytes) -> T:
        try:
            return cast(T, self._decoder.decode(body))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise PayloadError(
                f"{self.place}: {brief(body)} does not fit its annotation: {error}"
            ) from None


class Arguments:
    """The codec of a workflow's input: a JSON object of its parameters by name."""

    def __init__(self, function: Callable[..., Any], place: str) -> None:
        hints = hints_of(function, place)
        fields: list[Any] = []
        self._positional: list[str] = []
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise UsageError(
                    f"{place}: *{name} cannot be recorded by name; take a list or a dict instead"
                )
            if parameter.kind is not parameter.KEYWORD_ONLY:
                self._positional.append(name)
            fields.append(_field(name, hints.get(name, Any), parameter.default))
        names = [field[0] for field in fields]
        self._keyword = [name for name in names if name not in self._positional]
        self._parameters = ", ".join(names) or "nothing"
        self._struct = msgspec.defstruct(
            "input", fields, forbid_unknown_fields=True, kw_only=True, module=place
        )
        # In a fixed order, so that equal sets and dicts are equal inputs, in whichever process they were made.
        self._payload: Payload[Any] = Payload(self._struct, place, "deterministic")
        self.place = place

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any], limit: int) -> bytes:
        """Bytes of a call's arguments. Raises PayloadError, or UsageError if the call does not fit."""
        if len(args) > len(self._positional):
            raise UsageError(
                f"{self.place}: takes at most {len(self._positional)} arguments by position, got {len(args)}. "
                f"It takes {self._parameters}"
            )
        given = dict(zip(self._positional, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise UsageError(f"{self.place}: got {', '.join(sorted(twice))} twice")
        try:
            value = self._struct(**given, **kwargs)
        except TypeError as error:
            raise UsageError(f"{self.place}: {error}. It takes {self._parameters}") from None
        body, decoded = self._payload.round_trip(value, limit)
        if not _equal(decoded, value) and not _same_json(
            msgspec.to_builtins(value, enc_hook=_to_json, builtin_types=_KEPT),
            msgspec.to_builtins(decoded, enc_hook=_to_json, builtin_types=_KEPT),
        ):
            raise PayloadError(
                f"{self.place}: {brief(value)} would come back as {brief(decoded)}. Annotate its parameters."
            )
        return body

    def of_a_start(self, body: bytes) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a workflow that begins: it may have been started by older code, or by hand."""
        try:
            return self.decode(body)
        except PayloadError as error:
            raise PayloadError(
                f"{error}. The function takes {self._parameters}. Keep the parameters that "
                f"older starts hand over, and give new ones a default; or start it with what it takes."
            ) from None

    def decode(self, body: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments, rebuilt. Raises PayloadError."""
        value = self._payload.decode(body)
        return (
            [getattr(value, name) for name in self._positional],
            {name: getattr(value, name) for name in self._keyword},
        )


def result_payload(function: Callable[..., Any], place: str) -> Payload[Any]:
    """The codec of a function's result, from its return annotation."""
    return Payload(hints_of(function, place).get("return", Any), place)


def encode_plain(value: Any, place: str, limit: int) -> bytes:
    """Encode a value for which the caller has no annotation at hand (JSON values only)."""
    plain: Payload[Any] = Payload(Any, place, remedy=_HAND_OVER_JSON)
    return plain.round_trip(value, limit)[0]


def _field(name: str, annotation: Any, default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return (name, annotation)
    if isinstance(default, (list, dict, set, bytearray)):
        return (name, annotation, msgspec.field(default_factory=lambda: copy.deepcopy(default)))
    return (name, annotation, default)


def as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that somebody wrote: of a `functools.partial`, of an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if hasattr(function, "__qualname__") else type(function).__call__


def hints_of(function: Callable[..., Any], place: str) -> dict[str, Any]:
    try:
        hints = get_type_hints(as_written(function))
    except NameError as error:
        raise UsageError(
            f"{place}: an annotation cannot be resolved ({error}). Types of workflows and steps must be "
            f"importable from their module, not only under TYPE_CHECKING."
        ) from None
    return {name: Any if hint is inspect.Parameter.empty else hint for name, hint in hints.items()}


def _encode(value: Any, place: str, limit: int, order: Order) -> bytes:
    try:
        body = _body(value, order)
    except (TypeError, ValueError, OverflowError, RecursionError, NotImplementedError) as error:
        raise PayloadError(
            f"{place}: {brief(value)} cannot be recorded as JSON ({error}). "
            f"Dataclasses, pydantic models and JSON values can."
        ) from None
    if len(body) > limit:
        raise PayloadError(
            f"{place}: the payload is {len(body):,} bytes, the limit is {limit:,}. "
            f"Store large values elsewhere and pass a reference, or raise max_payload on the App."
        )
    if b"null" in body and _has_non_finite(msgspec.to_builtins(value, enc_hook=_to_json)):
        raise PayloadError(
            f"{place}: {brief(value)} holds NaN or infinity, which JSON cannot express"
        )
    return body


def _body(value: Any, order: Order) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_to_json, order=order)
    except TypeError:
        if order is None:
            raise
        # Numbers, dates and the like as keys, which msgspec puts in order only on the way to builtins.
        built = msgspec.to_builtins(value, enc_hook=_to_json, str_keys=True, order=order)
        return msgspec.json.encode(built)


def _to_json(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise NotImplementedError(f"no JSON form for {type(value).__qualname__}")


def _from_json(annotation: type, value: Any) -> Any:
    if annotation is object:
        return value
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return annotation(value)
    validate = getattr(annotation, "model_validate", None)
    if validate is not None:
        return validate(value)
    raise NotImplementedError(f"{annotation!r} cannot be rebuilt from JSON")


def _has_non_finite(value: Any) -> bool:
    """Of a value in its builtin form."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(_has_non_finite(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(map(_has_non_finite, value))


def _same_json(value: Any, decoded: Any) -> bool:
    """Whether a plain value came back as itself; 1 and 1.0 and True are different values."""
    if type(value) is not type(decoded):
        return False
    if isinstance(value, dict):
        return value.keys() == decoded.keys() and all(
            _same_json(value[k], decoded[k]) for k in value
        )
    if isinstance(value, list):
        return len(value) == len(decoded) and all(map(_same_json, value, decoded))
    return _equal(value, decoded)


def _equal(one: Any, other: Any) -> bool:
    """Whether two values say that they are equal; some raise an error instead."""
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001
        return False
