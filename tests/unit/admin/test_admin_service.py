"""Who may do what, and how answers and errors leave the service."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import grpc
import pytest

from goverse.admin import api
from goverse.admin.wire import METHODS, SERVICE, to_model
from goverse.errors import ApplicationError, GoverseError, Overloaded, PermissionDenied
from goverse.security.operators import (
    OperatorRule,
    TokenFileError,
    is_loopback,
    read_token,
)
from goverse.transport.grpc_status import error_of
from goverse_node.admin.service import CHANGES, AdminService

TOKEN = "0123456789abcdef"
LOCAL, REMOTE = "ipv4:127.0.0.1:5000", "ipv4:10.0.0.7:5000"


class Aborted(Exception):
    def __init__(self, error: GoverseError) -> None:
        self.error = error


class Context:
    """What a handler asks of gRPC's context."""

    def __init__(self, peer: str, metadata: Iterable[tuple[str, str]] = ()) -> None:
        self._peer, self._metadata = peer, tuple(metadata)

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return 7.0

    async def abort(self, code: grpc.StatusCode, message: str, trailers: Any) -> None:
        raise Aborted(error_of(code, message, trailers))


class Recorder:
    """An `Admin` that answers everything with the model's defaults, or raises; also if arguments
    come that it does not have."""

    def __init__(self, outcome: Exception | None = None) -> None:
        self.outcome = outcome
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def answer(**arguments: Any) -> Any:
            inspect.signature(getattr(api.Admin, name)).bind(self, **arguments)
            self.asked.append((name, arguments))
            if self.outcome is not None:
                raise self.outcome
            required = {"shard": 1, "type": "T", "id": "a", "name": "n1"}
            model = METHODS[name].model
            fields = model.__dataclass_fields__
            return model(**{key: value for key, value in required.items() if key in fields})

        return answer


class Details:
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


async def ask(
    name: str,
    context: Context,
    admin: Recorder | None = None,
    token: str = TOKEN,
    **fields: Any,
) -> Any:
    """Through the handler that gRPC would call, bytes in and bytes out."""
    method = METHODS[name]
    service = AdminService(admin or Recorder(), OperatorRule(token))
    handler: Any = service.handler().service(Details(method.path))  # type: ignore[arg-type]
    request = handler.request_deserializer(method.request(**fields).SerializeToString())
    answer = await handler.unary_unary(request, context)
    return to_model(method.response.FromString(handler.response_serializer(answer)), method.model)


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


@pytest.mark.parametrize("name", METHODS)
async def test_a_local_peer_may_do_everything(name: str) -> None:
    admin = Recorder()
    await ask(name, Context(LOCAL), admin)
    assert [asked for asked, _ in admin.asked] == [name]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "metadata",
    [[], bearer("wrong" * 4), bearer(""), [("authorization", TOKEN)], [("x-forwarded-for", LOCAL)]],
)
async def test_L31_every_method_that_changes_something_asks_for_an_operator(
    name: str, metadata: list[tuple[str, str]]
) -> None:
    admin = Recorder()
    if name in CHANGES:
        with pytest.raises(Aborted) as caught:
            await ask(name, Context(REMOTE, metadata), admin)
        assert isinstance(caught.value.error, PermissionDenied)
        assert admin.asked == []
    else:
        await ask(name, Context(REMOTE, metadata), admin)


def test_L31_what_changes_something_is_told_by_its_name() -> None:
    """A method that is added later must be put on one side or the other."""
    reading = {
        name
        for name in METHODS
        if name.startswith(("get_", "list_", "locate_", "describe_", "plan_"))
    }
    assert reading | CHANGES == set(METHODS)
    assert not reading & CHANGES


@pytest.mark.parametrize("name", sorted(CHANGES))
async def test_the_token_opens_the_door_from_anywhere(name: str) -> None:
    await ask(name, Context(REMOTE, bearer(TOKEN)))


async def test_what_an_operator_changes_is_in_the_audit_log_also_if_it_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await ask("cordon_node", Context(LOCAL), node="n2", drain=True)
    with pytest.raises(Aborted):
        await ask("decommission_node", Context(REMOTE), node="n2")
    told = [record.getMessage() for record in caplog.records if record.name == "goverse.audit"]
    assert told[0] == f"cordon_node node=n2 drain=True by {LOCAL} (loopback): asked"
    assert told[1] == f"cordon_node node=n2 drain=True by {LOCAL} (loopback): done"
    (refused,) = told[2:]
    assert refused.startswith(f"decommission_node node=n2 by {REMOTE}: permission_denied: ")


async def test_without_a_configured_token_no_token_opens_the_door() -> None:
    for shown in ("", TOKEN):
        with pytest.raises(Aborted):
            await ask("pin_shard", Context(REMOTE, bearer(shown)), token="")


async def test_arguments_and_deadline_reach_the_admin() -> None:
    admin = Recorder()
    await ask("call_object", Context(LOCAL), admin, type="T", id="a", method="m", args=b"{}")
    assert admin.asked == [
        ("call_object", {"type": "T", "id": "a", "method": "m", "args": b"{}", "timeout_s": 7.0})
    ]


async def test_errors_leave_with_code_and_details() -> None:
    error = ApplicationError("too_poor", "no money", {"missing": 3})
    with pytest.raises(Aborted) as caught:
        await ask("call_object", Context(LOCAL), Recorder(error))
    arrived = caught.value.error
    assert (type(arrived), arrived.code, arrived.details) == (
        ApplicationError,
        "too_poor",
        {"missing": 3},
    )


async def test_an_unexpected_error_says_nothing_of_itself(caplog: Any) -> None:
    with pytest.raises(Aborted) as caught:
        await ask("get_status", Context(LOCAL), Recorder(RuntimeError("secret")))
    assert caught.value.error.code == "internal"
    assert "secret" not in str(caught.value.error)
    assert "secret" in caplog.text


def test_the_service_has_the_name_that_clients_know() -> None:
    assert SERVICE == "goverse.v1.Admin"
    assert api.Admin.__name__ == "Admin"
    assert issubclass(Overloaded, GoverseError)


@pytest.mark.parametrize(
    "peer",
    [
        "ipv4:127.0.0.1:50",
        "ipv4:127.8.8.8:50",
        "ipv6:%5B::1%5D:50",
        "ipv6:[::1]:50",
        "[::1]:50",
        "::1",
        "127.0.0.1",
        "127.0.0.1:80",
        "::ffff:127.0.0.1",
        "unix:/run/x",
    ],
)
def test_loopback_is_recognised(peer: str) -> None:
    assert is_loopback(peer)


@pytest.mark.parametrize(
    "peer",
    [
        "ipv4:10.0.0.1:50",
        "ipv6:%5B2001:db8::1%5D:50",
        "[::ffff:10.0.0.1]:50",
        "0.0.0.0",
        "",
        "localhost",
        "127.0.0.1.example.org",
        "10.0.0.1, 127.0.0.1",
        "unknown",
    ],
)
def test_L33_nothing_else_is_taken_for_loopback(peer: str) -> None:
    assert not is_loopback(peer)


def test_a_token_file_must_be_its_owners_alone(tmp_path: Any) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\nmore\n")
    path.chmod(0o600)
    assert read_token(str(path)) == TOKEN
    path.chmod(0o640)
    with pytest.raises(TokenFileError, match="chmod 600"):
        read_token(str(path))


@pytest.mark.parametrize("content", [b"", b"\n", b"short\n", b"\xff\xfe" * 20])
def test_a_token_file_without_a_token_is_refused(tmp_path: Any, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(TokenFileError):
        read_token(str(path))


def test_a_token_file_that_is_missing_is_named() -> None:
    with pytest.raises(TokenFileError, match="/nowhere/token"):
        read_token("/nowhere/token")


def test_a_rule_does_not_show_its_token() -> None:
    assert TOKEN not in repr(OperatorRule(TOKEN))
