"""A call as it arrives, understood: its class, its method, its arguments. Nothing has begun."""

from __future__ import annotations

from typing import Any

from goverse.call import CALL, Call, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import InvalidArgument, NotFound, PermissionDenied, TooLarge
from goverse.ids import check_id
from goverse.objects.definition import MethodType, ObjectType
from goverse.objects.registry import Registry
from goverse.objects.turn import Turn

#: Deadlines further away than this are cut to it.
_MAX_TIMEOUT_S = 7 * 86_400.0


class Arrival:
    """Looks calls up in the registry, and decodes and validates their arguments."""

    def __init__(self, registry: Registry, limits: LimitSettings) -> None:
        self._registry = registry
        self._max_payload_bytes = limits.max_payload_bytes

    def object_type(self, call: Call) -> ObjectType:
        """Raises NotFound, InvalidArgument."""
        object_type = self._registry.get(call.type)
        try:
            check_id(call.id)
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        return object_type

    def method(self, call: Call, object_type: ObjectType) -> MethodType:
        """Raises NotFound."""
        method = object_type.methods.get(call.method)
        if method is None:
            raise NotFound(
                object_type.explain_missing(call.method[:64]),
                details={"type": call.type, "method": call.method[:64]},
            )
        return method

    def bind(self, call: Call, method: MethodType | None, now: float) -> tuple[Any, float]:
        """The arguments, decoded and validated, and the deadline of the turn. Raises TooLarge,
        InvalidArgument, DeadlineExceeded."""
        deadline = call.deadline
        if deadline > now + _MAX_TIMEOUT_S:
            deadline = now + _MAX_TIMEOUT_S
        arguments = None
        if method is not None:
            limit = self._max_payload_bytes
            if len(call.payload) > limit:
                raise TooLarge(
                    f"{call}: arguments of {len(call.payload)} bytes, above max_payload of {limit}"
                )
            arguments = method.signature.decode(call.payload, call.codec)
            if method.timeout_s is not None:
                deadline = min(deadline, now + method.timeout_s)
        if deadline <= now:
            raise Turn(call, method, arguments, deadline).not_begun()
        return arguments, deadline

    def turn(self, call: Call, object_type: ObjectType, now: float) -> Turn:
        """Raises as `method` and `bind`, and PermissionDenied."""
        method = None
        if call.verb is CALL:
            method = self.method(call, object_type)
        elif call.verb is Verb.MOVE:
            raise PermissionDenied(f"{call} is no call of an object")
        arguments, deadline = self.bind(call, method, now)
        return Turn(call, method, arguments, deadline, method is not None and method.shared)
