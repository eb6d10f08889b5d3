"""Application classes: the base class, the method decorator, and every check of a definition.

What can be wrong with a class is said when the class is defined, naming method and parameter.
Only names that a later class brings in are looked at when the class is registered or used.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, overload

from goverse.call import Codec
from goverse.ids import check_type
from goverse.objects.durability.stored import StoredForm
from goverse.objects.reference import Reference
from goverse.objects.signature import Signature, UnresolvedName
from goverse.objects.state import StateCodec
from goverse.objects.stepping import never_suspends

F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])

_MARK = "__goverse_method__"
_CLASS_OPTIONS = (
    "durability",
    "commit_interval_s",
    "state_version",
    "on_parked",
    "concurrent",
    "reentrancy",
    "idle_timeout_s",
    "name",
)


@dataclass(frozen=True)
class MethodOptions:
    """What ``@method`` was told."""

    read_only: bool = False
    rollback: bool = True
    timeout_s: float | None = None


@overload
def method(function: F, /) -> F: ...
@overload
def method(
    *, read_only: bool = False, rollback: bool = True, timeout_s: float | None = None
) -> Callable[[F], F]: ...
def method(
    function: Callable[..., Any] | None = None,
    /,
    *,
    read_only: bool = False,
    rollback: bool = True,
    timeout_s: float | None = None,
) -> Any:
    """Make an async method callable from outside.

    Without an await in its code it may run outside of any task.

    :param read_only: it does not change declared state; it interleaves with other such methods.
        What it changes all the same may be undone by the next turn that fails.
    :param rollback: False saves the comparison, and keeps what a failed turn changed.
    :param timeout_s: the longest that a call may take, waiting included.
    """
    if timeout_s is not None and not timeout_s > 0:
        raise ValueError(f"timeout_s must be above 0, not {timeout_s}")
    options = MethodOptions(read_only, rollback, timeout_s)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.iscoroutinefunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(f"{name}: a goverse method must be written 'async def'")
        setattr(function, _MARK, options)
        return function

    return decorate if function is None else decorate(function)


class MethodType:
    """One method of one class, as calls see it."""

    __slots__ = (
        "encode",
        "function",
        "in_place",
        "name",
        "read_only",
        "shared",
        "signature",
        "start",
        "timeout_s",
        "tracked",
    )

    def __init__(
        self, name: str, function: Callable[..., Any], options: MethodOptions, concurrent: bool
    ) -> None:
        self.name = name
        self.function = function
        self.read_only = options.read_only
        self.shared = options.read_only or concurrent
        self.tracked = options.rollback and not self.shared
        self.timeout_s = options.timeout_s
        #: Whether it can be run to its end wherever the call is found.
        self.in_place = never_suspends(function)
        # Set by `ObjectType.complete`; what turns ask of it is the signature's own.
        self.signature: Signature = cast(Signature, None)
        self.start: Callable[[Any, Any], Awaitable[Any]]
        self.encode: Callable[[Any, Codec], bytes]

    def complete(self, signature: Signature) -> None:
        self.signature = signature
        self.start, self.encode = signature.start, signature.encode_result


@dataclass(frozen=True)
class ClassOptions:
    """What the class statement was told."""

    durability: Literal["none", "interval", "acknowledged"] = "none"
    commit_interval_s: float = 5.0
    state_version: int = 0
    on_parked: Literal["leave", "block"] = "leave"
    concurrent: bool = False
    reentrancy: Literal["refuse", "allow"] = "refuse"
    idle_timeout_s: float | None = None

    @property
    def effective_interval_s(self) -> float:
        """How long a change may wait to be committed; 0: its turn's reply waits for it."""
        return self.commit_interval_s if self.durability == "interval" else 0.0


class ObjectType:
    """Everything known about one application class."""

    def __init__(
        self, cls: type[Object], name: str, options: ClassOptions, names: Mapping[str, Any]
    ) -> None:
        self.cls = cls
        self.name = name
        self.options = options
        self.state = StateCodec(cls, names, RESERVED)
        #: How the store keeps it; None for a class that asks for no durability.
        self.stored: StoredForm | None = None
        #: How it goes to another node with its shard; None where there is a store, or no state.
        self.packed: StoredForm | None = None
        form = StoredForm(self.state, options.state_version, cls.upgrade_state)
        if options.durability != "none":
            self.stored = form
        elif self.state:
            self.packed = form
        self.methods: dict[str, MethodType] = {}
        self.activates = cls.on_activate is not Object.on_activate
        self.deactivates = cls.on_deactivate is not Object.on_deactivate
        self._pending = _collect(cls, options)
        self._names = {cls.__name__: cls}
        self._complete(names, final=False)

    def complete(self) -> ObjectType:
        """Look again at annotations that used names of later classes. Raises TypeError."""
        if self._pending:
            self._complete(self._names, final=True)
        return self

    def _complete(self, names: Mapping[str, Any], *, final: bool) -> None:
        pending: list[MethodType] = []
        for found in self._pending:
            where = f"{self.cls.__qualname__}.{found.name}"
            try:
                found.complete(Signature(found.function, names, where))
            except UnresolvedName as error:
                if final:
                    raise TypeError(str(error)) from None
                pending.append(found)
            self.methods[found.name] = found
        self._pending = pending

    def method(self, name: str) -> MethodType | None:
        """The decorated method ``name``, or None."""
        if self._pending:
            self.complete()
        return self.methods.get(name)

    def explain_missing(self, name: str) -> str:
        """Why there is no method ``name`` to call: for AttributeError and NotFound."""
        if name in self.state.fields:
            why = f"{name!r} is declared state of {self.name}, which only its own methods see"
        elif callable(getattr(self.cls, name, None)):
            why = f"{self.name}.{name} is not decorated with @goverse.method"
        else:
            why = f"{self.name} has no method {name!r}"
        known = ", ".join(self.methods) or "none"
        return f"{why}; methods that can be called: {known}"


class Timer(Protocol):
    """A running timer of an object."""

    def cancel(self) -> None: ...


class Host(Protocol):
    """What an activation does for its instance."""

    @property
    def id(self) -> str: ...

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> None: ...

    def start_timer(
        self, delay_s: float, interval_s: float | None, action: Callable[[], Awaitable[Any]]
    ) -> Timer: ...


class Object:
    """Base class of application objects.

    Annotated class attributes are the object's declared state; each needs a default, which every
    instance gets its own copy of. Methods decorated with `method` can be called from outside.

    Class options: ``name`` (type name, by default the class's), ``concurrent`` (calls interleave
    freely, no rollback), ``reentrancy`` ("refuse" or "allow" calls that come back to a turn),
    ``idle_timeout_s`` (seconds; instead of the node's setting), ``durability`` ("none";
    "acknowledged": a reply leaves only when the state that it reflects is committed; "interval":
    replies do not wait, and the state is committed every ``commit_interval_s`` seconds and when
    the object is deactivated; without declared state both keep reliable calls alone),
    ``state_version`` (see `upgrade_state`), ``on_parked`` ("leave": a reliable call whose attempts
    ended too many processes leaves the object's order; "block": it holds up those behind it).
    """

    __goverse__: ClassVar[ObjectType]
    __goverse_root__: ClassVar[bool] = True
    __goverse_host__: ClassVar[Host | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__()
        cls.__goverse_root__ = False
        name = options.pop("name", None)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"{cls.__qualname__}: name must be text, not {name!r}")
        merged = _class_options(cls, options)
        try:
            type_name = check_type(name or cls.__name__)
        except ValueError as error:
            raise TypeError(f"{cls.__qualname__}: {error}") from None
        _check_init(cls)
        # Annotations kept as text may name classes local to the function that defines this one.
        scope = sys._getframe(1).f_locals
        cls.__goverse__ = ObjectType(cls, type_name, merged, {**scope, cls.__name__: cls})

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Object:
            raise TypeError("goverse.Object is a base class: define your own")
        instance = super().__new__(cls)
        cls.__goverse__.state.initialise(instance)
        return instance

    @property
    def id(self) -> str:
        """This object's id."""
        return self._host().id

    def spawn(self, coro: Coroutine[Any, Any, Any], *, name: str = "task") -> None:
        """Run ``coro`` in the background until it ends or the activation does.

        It runs outside of turns: it changes state by calling methods, not directly. It does not
        keep an idle object active.
        """
        try:
            host = self._host()
        except BaseException:
            coro.close()
            raise
        host.spawn(coro, name)

    def start_timer(
        self,
        delay_s: float,
        action: Callable[[], Awaitable[Any]],
        *,
        interval_s: float | None = None,
    ) -> Timer:
        """Run ``action`` as a turn of this object after ``delay_s`` seconds, then every
        ``interval_s`` if given, until it is cancelled or the activation ends."""
        return self._host().start_timer(delay_s, interval_s, action)

    async def on_activate(self) -> None:
        """Called before the first turn. If it raises, nothing was activated."""

    async def on_deactivate(self) -> None:
        """Called after the last turn when the object is idle, deleted or moved away; not when
        its node dies or loses its lease. What it raises is logged."""

    @classmethod
    def upgrade_state(cls, version: int, state: dict[str, Any]) -> dict[str, Any]:
        """The fields of a stored state of an older ``state_version``, as this class has them.

        Called when such a state is loaded; new fields may be left out, and take their defaults.

        :param version: the one that ``state`` was stored with, below the class's own.
        :param state: field names to plain values (dicts, lists, text, numbers, bytes).
        """
        raise NotImplementedError(
            f"{cls.__qualname__} has state_version {cls.__goverse__.options.state_version} and "
            f"does not define upgrade_state; a stored state has version {version}"
        )

    def _host(self) -> Host:
        if self.__goverse_host__ is None:
            raise RuntimeError(f"this {type(self).__name__} was made by hand: it is not hosted")
        return self.__goverse_host__

    def __goverse_address__(self) -> tuple[str, str]:
        return type(self).__goverse__.name, self.id

    @classmethod
    def __goverse_reference__(cls, value: Any) -> Any:
        """A reference from ``{"type": ..., "id": ...}``. Raises ValueError."""
        if isinstance(value, Reference):
            return value
        if not isinstance(value, dict) or set(value) != {"type", "id"}:
            raise ValueError('expected a reference {"type": ..., "id": ...}')
        name, id = value["type"], value["id"]
        if not isinstance(name, str) or not isinstance(id, str):
            raise ValueError("type and id of a reference must be text")
        if cls is Object:
            return Reference(name, id, kind=Object)
        found = _subclass(cls, name)
        if found is None:
            raise ValueError(f"expected a reference to a {cls.__goverse__.name}, not to a {name}")
        return Reference(found.__goverse__.complete(), id)


RESERVED = frozenset(
    name for name in vars(Object) if not name.startswith("__") or name.startswith("__goverse")
)


def _subclass(cls: type[Object], name: str) -> type[Object] | None:
    if cls.__goverse__.name == name:
        return cls
    for child in cls.__subclasses__():
        found = _subclass(child, name)
        if found is not None:
            return found
    return None


def _class_options(cls: type[Object], options: dict[str, Any]) -> ClassOptions:
    where = cls.__qualname__
    for key in options:
        if key not in _CLASS_OPTIONS:
            known = ", ".join(_CLASS_OPTIONS)
            raise TypeError(f"{where}: unknown class option {key!r}; there are: {known}")
    inherited = vars(cls.__goverse__.options) if hasattr(cls, "__goverse__") else {}
    if options.get("concurrent") is True and "reentrancy" not in options:
        inherited = {**inherited, "reentrancy": "refuse"}
    merged = ClassOptions(**{**inherited, **options})
    if merged.durability not in ("none", "interval", "acknowledged"):
        raise TypeError(
            f"{where}: durability must be 'none', 'interval' or 'acknowledged', not "
            f"{merged.durability!r}"
        )
    interval = merged.commit_interval_s
    if not (isinstance(interval, int | float) and 0 < interval < float("inf")):
        raise TypeError(f"{where}: commit_interval_s must be seconds above 0, not {interval!r}")
    if "commit_interval_s" in options and merged.durability != "interval":
        raise TypeError(f"{where}: commit_interval_s goes with durability='interval'")
    if type(merged.state_version) is not int or not 0 <= merged.state_version < 2**31:
        raise TypeError(
            f"{where}: state_version must be a number from 0, not {merged.state_version!r}"
        )
    if merged.on_parked not in ("leave", "block"):
        raise TypeError(f"{where}: on_parked must be 'leave' or 'block', not {merged.on_parked!r}")
    if not isinstance(merged.concurrent, bool):
        raise TypeError(f"{where}: concurrent must be True or False")
    if merged.reentrancy not in ("refuse", "allow"):
        raise TypeError(f"{where}: reentrancy must be 'refuse' or 'allow'")
    if merged.concurrent and "reentrancy" in options:
        raise TypeError(f"{where}: a concurrent class admits every call; leave reentrancy out")
    if merged.concurrent and merged.durability != "none":
        raise TypeError(
            f"{where}: the state of a concurrent class cannot be durable, as its turns have no "
            "order; leave out concurrent or durability"
        )
    idle = merged.idle_timeout_s
    if idle is not None and not (isinstance(idle, int | float) and idle > 0):
        raise TypeError(f"{where}: idle_timeout_s must be seconds above 0, not {idle!r}")
    return merged


def _check_init(cls: type[Object]) -> None:
    if cls.__init__ is object.__init__:
        return
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    if parameters:
        raise TypeError(
            f"{cls.__qualname__}.__init__ takes {parameters[0].name!r}: an object is made when it "
            "is first called, without arguments; begin in on_activate or with a method"
        )


def _collect(cls: type[Object], options: ClassOptions) -> list[MethodType]:
    """The decorated methods, those of base classes first."""
    found: dict[str, MethodType] = {}
    for base in reversed(cls.__mro__):
        if base is Object or base is object:
            continue
        for name, value in vars(base).items():
            marked = getattr(value, _MARK, None)
            where = f"{base.__qualname__}.{name}"
            if isinstance(marked, MethodOptions):
                if name.startswith("_") or name in RESERVED:
                    raise TypeError(f"{where}: a goverse method needs a public, unreserved name")
                found[name] = MethodType(name, value, marked, options.concurrent)
            elif name in found:
                raise TypeError(f"{where} overrides a goverse method: decorate it too")
            elif isinstance(value, staticmethod | classmethod) and hasattr(value.__func__, _MARK):
                raise TypeError(f"{where}: a goverse method cannot be static or of the class")
            elif name in ("on_activate", "on_deactivate"):
                if not inspect.iscoroutinefunction(value):
                    raise TypeError(f"{where} must be written 'async def'")
            elif name == "upgrade_state":
                if not isinstance(value, classmethod):
                    raise TypeError(f"{where} must be a classmethod")
            elif name in RESERVED and not name.startswith("__"):
                raise TypeError(f"{where}: this name is reserved by goverse.Object")
    return list(found.values())
