"""What a method takes and gives: one keyword-only struct of its arguments, made from its
annotations once, at class definition; both ends of a call use it."""

from __future__ import annotations

import copy
import inspect
import operator
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import inspect as types

from goverse.call import JSON, Codec
from goverse.errors import Executed, Internal, InvalidArgument
from goverse.objects import encoding, foreign
from goverse.objects.whole_message import whole_message

_PLAIN_DEFAULTS = (int, float, str, bytes, bool, type(None), tuple, frozenset)


class UnresolvedName(Exception):
    """An annotation names something that is not defined yet."""


def resolve_hints(function: Any, names: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The annotations of a method or class as types. Raises `UnresolvedName`, TypeError."""
    try:
        return typing.get_type_hints(function, localns=dict(names), include_extras=True)
    except NameError as error:
        raise UnresolvedName(f"{where}: the annotation uses {error.name!r}, unknown here") from None
    except Exception as error:
        raise TypeError(f"{where}: the annotations cannot be read: {error}") from error


class TypeFacts:
    """What the whole tree below an annotation contains."""

    __slots__ = ("decimals", "json_is_faithful", "opaque", "references")

    def __init__(self, annotation: Any, where: str) -> None:
        self.references = False
        self.decimals = False
        self.opaque = False  # parts of it are made from builtins of any kind
        self.json_is_faithful = True
        if isinstance(annotation, typing.TypeVar):
            raise TypeError(f"{where}: a type variable cannot be validated; name a type")
        try:
            root = types.type_info(annotation)
        except TypeError as error:
            raise TypeError(f"{where}: unsupported annotation: {error}") from None
        for part in _walk(root):
            self._look_at(part, where)

    def _look_at(self, part: types.Type, where: str) -> None:
        self.decimals |= isinstance(part, types.DecimalType)
        self.opaque |= isinstance(part, types.AnyType | types.CustomType)
        if isinstance(part, types.CustomType):
            # The class behind an object's annotation; encoding knows it by the same attribute.
            if hasattr(part.cls, "__goverse_reference__"):
                self.references = True
            elif not foreign.is_supported(part.cls):
                name = getattr(part.cls, "__qualname__", str(part.cls))
                raise TypeError(
                    f"{where}: type {name} is not supported; use builtins, dataclasses, msgspec "
                    "structs, enums, datetimes, object classes, protobuf or pydantic messages"
                )
        # Integers can be too large and floats not finite; keys can be numbers.
        unfaithful = (types.AnyType, types.IntType, types.FloatType, types.CustomType)
        odd_keys = isinstance(part, types.DictType) and not isinstance(part.key_type, types.StrType)
        if odd_keys or isinstance(part, unfaithful):
            self.json_is_faithful = False


def _walk(root: types.Type) -> Iterator[types.Type]:
    """Every type below ``root``, once: struct and dataclass types can contain themselves."""
    pending, seen = [root], set[int]()
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        for name in part.__struct_fields__:
            child = getattr(part, name)
            for item in child if isinstance(child, tuple) else (child,):
                if isinstance(item, types.Type):
                    pending.append(item)
                elif isinstance(item, types.Field):
                    pending.append(item.type)


class Signature:
    """Arguments and result of one method."""

    def __init__(self, function: Callable[..., Any], names: Mapping[str, Any], where: str) -> None:
        self._where = where
        self._parameters = _parameters(function, where)
        self.positional = tuple(
            p.name for p in self._parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY
        )
        self.names = tuple(p.name for p in self._parameters)
        self.required = tuple(p.name for p in self._parameters if p.default is p.empty)
        hints = resolve_hints(function, names, where)
        _check_annotated(self._parameters, hints, where)
        self.result_type: Any = hints["return"]
        self.struct = _struct(self._parameters, hints, where)
        facts = [
            TypeFacts(hints[p.name], f"{where}, parameter {p.name!r}") for p in self._parameters
        ]
        self._whole_floats = _whole_floats(self.struct, facts)
        self._json_arguments_checked = all(fact.json_is_faithful for fact in facts)
        result = TypeFacts(self.result_type, f"{where}, result")
        self._json_result_checked = result.json_is_faithful
        self.result_has_references = result.references
        #: Set if the only parameter is a protobuf message: in JSON it is the whole payload.
        self.whole = whole_message(self.struct, self._parameters, hints)
        hook = encoding.decode_hook
        self._decoders: dict[Codec, Callable[[bytes], Any]] = {
            Codec.MSGPACK: msgspec.msgpack.Decoder(self.struct, dec_hook=hook).decode,
            Codec.JSON: msgspec.json.Decoder(self.struct, dec_hook=hook).decode,
        }
        self._no_arguments = encoding.NO_ARGUMENTS
        if self.whole is not None:
            self._decoders[Codec.JSON] = self.whole.decode_json
            self._no_arguments = {**encoding.NO_ARGUMENTS, Codec.JSON: b""}
            self._json_arguments_checked = True
        self._decode_result = msgspec.msgpack.Decoder(self.result_type, dec_hook=hook).decode
        keyword_only = len(self.names) > len(self.positional)
        #: Given an instance and decoded arguments: the coroutine of the method.
        self.start = _starter(function, self.positional, keyword_only=keyword_only)
        #: How many arguments by position are all that there are.
        self._all_positional = -1 if keyword_only else len(self.names)

    # -- the side that is called

    def decode(self, payload: bytes, codec: Codec) -> Any:
        """Validate arguments; a struct of them. Raises InvalidArgument naming the path."""
        decoder = self._decoders.get(codec) or self._any_decoder()
        try:
            try:
                arguments = decoder(payload or self._no_arguments[codec])
            except msgspec.ValidationError as error:
                whole_floats = self._whole_floats
                if codec is not JSON or not (
                    whole_floats is not None and whole_floats.may_help(error)
                ):
                    raise
                arguments = whole_floats.decode(payload)
            if codec is JSON and not self._json_arguments_checked:
                encoding.refuse_big_integers(arguments)
        except encoding.DECODE_ERRORS as error:
            path, why = encoding.explain(error)
        except encoding.EncodingFault as fault:
            path, why = fault.path, fault.why
        else:
            return arguments
        raise InvalidArgument(
            f"{self._where}: {path}: {why}" if path else f"{self._where}: {why}",
            details={"path": path} if path else None,
        )

    def _any_decoder(self) -> Callable[[bytes], Any]:
        """Made on first use: it loads protobuf, which few processes need."""
        from goverse.objects.any_codec import AnyDecoder

        made = self._decoders[Codec.ANY] = AnyDecoder(self.struct, self.whole)
        return made

    def encode_result(self, value: Any, codec: Codec) -> bytes:
        """Raises `EncodingFault`."""
        return encoding.encode(value, codec, checked=self._json_result_checked)

    # -- the side that calls

    def encode_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Bind and encode. Raises TypeError for a wrong call, InvalidArgument for values that
        cannot travel. What is left out is not sent: the object's own defaults apply."""
        if not kwargs and len(args) == self._all_positional:
            bound = dict(zip(self.names, args, strict=True))
        else:
            bound = self._bind(args, kwargs)
        if not bound:
            return b""
        try:
            return encoding.encode(bound)
        except encoding.EncodingFault as fault:
            raise InvalidArgument(f"{self._where}: {fault}", details={"path": fault.path}) from None

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if len(args) > len(self.positional):
            raise TypeError(
                f"{self._where} takes {len(self.positional)} positional arguments, got {len(args)}"
            )
        bound = dict(zip(self.positional, args, strict=False))
        for name, value in kwargs.items():
            if name in bound:
                raise TypeError(f"{self._where} got two values for argument {name!r}")
            if name not in self.names:
                raise TypeError(f"{self._where} has no argument {name!r}")
            bound[name] = value
        missing = [name for name in self.required if name not in bound]
        if missing:
            raise TypeError(f"{self._where} misses argument {', '.join(map(repr, missing))}")
        return bound

    def decode_result(self, payload: bytes) -> Any:
        """A msgpack result as the annotated type. Raises Internal if it is something else."""
        try:
            return self._decode_result(payload)
        except encoding.DECODE_ERRORS as error:
            path, why = encoding.explain(error)
            raise Internal(
                f"{self._where} answered something else than its annotation says: "
                + (f"{path}: {why}" if path else why),
                executed=Executed.YES,
                details={"path": path},
            ) from None


def _starter(
    function: Callable[..., Any], positional: tuple[str, ...], *, keyword_only: bool
) -> Callable[[Any, Any], Any]:
    """``function`` of an instance, with the fields of a struct. Chosen once: this is on the path of
    every call."""
    if keyword_only:
        return lambda instance, arguments: function(instance, **msgspec.structs.asdict(arguments))
    if not positional:
        return lambda instance, arguments: function(instance)
    get: Any = operator.attrgetter(*positional)
    if len(positional) == 1:  # then it gives the bare value
        return lambda instance, arguments: function(instance, get(arguments))
    return lambda instance, arguments: function(instance, *get(arguments))


def _whole_floats(
    struct: type[msgspec.Struct], facts: list[TypeFacts]
) -> encoding.WholeFloats | None:
    decimals = any(fact.decimals for fact in facts)
    if decimals and any(fact.opaque for fact in facts):
        return None  # what is opaque knows floats only, and a decimal would lose digits as one
    return encoding.WholeFloats(struct, decimals=decimals)


def _parameters(function: Callable[..., Any], where: str) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise TypeError(f"{where}: a method needs 'self'")
    kinds = {
        inspect.Parameter.VAR_POSITIONAL: "is variadic (*args)",
        inspect.Parameter.VAR_KEYWORD: "is variadic (**kwargs)",
        inspect.Parameter.POSITIONAL_ONLY: "is positional-only",
    }
    for parameter in parameters[1:]:
        if parameter.kind in kinds:
            raise TypeError(
                f"{where}, parameter {parameter.name!r} {kinds[parameter.kind]}: "
                "arguments travel by name, so each needs one"
            )
    if parameters[0].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY):
        raise TypeError(f"{where}: a method needs 'self'")
    return parameters[1:]


def _check_annotated(
    parameters: list[inspect.Parameter], hints: Mapping[str, Any], where: str
) -> None:
    for parameter in parameters:
        if parameter.name not in hints:
            raise TypeError(f"{where}, parameter {parameter.name!r} has no annotation")
    if "return" not in hints:
        raise TypeError(f"{where}: the result has no annotation (write -> None if there is none)")


def _struct(
    parameters: list[inspect.Parameter], hints: Mapping[str, Any], where: str
) -> type[msgspec.Struct]:
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for parameter in parameters:
        default = parameter.default
        if default is parameter.empty:
            fields.append((parameter.name, hints[parameter.name]))
        elif isinstance(default, _PLAIN_DEFAULTS):
            fields.append((parameter.name, hints[parameter.name], default))
        else:
            # A copy for each call: a default shared by all objects of a node would leak
            # from one to another.
            factory = _copier(default)
            spec = msgspec.field(default_factory=factory)
            fields.append((parameter.name, hints[parameter.name], spec))
    try:
        return msgspec.defstruct(
            where.rpartition(".")[2] + "_arguments",
            fields,
            forbid_unknown_fields=True,
            kw_only=True,
        )
    except TypeError as error:
        raise TypeError(f"{where}: unsupported parameters: {error}") from None


def _copier(default: Any) -> Callable[[], Any]:
    return lambda: copy.deepcopy(default)
