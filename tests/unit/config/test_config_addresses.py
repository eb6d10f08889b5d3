"""host:port, and the names and addresses that a process takes when nobody gives it any."""

import socket

import pytest

from goverse.config.addresses import Address, advertised, member_name, parse_address
from goverse.config.faults import BadValue
from goverse.ids import check_member_name


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:1", Address("localhost", 1)),
        ("127.0.0.1:48000", Address("127.0.0.1", 48000)),
        ("[::1]:0", Address("::1", 0)),
        ("node-1.goverse.svc:65535", Address("node-1.goverse.svc", 65535)),
    ],
)
def test_addresses_survive_a_round_trip(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no port"),
        ("localhost", "has no port"),
        (":48000", "write 0.0.0.0:port"),
        ("localhost:", "has no port from 0 to 65535"),
        ("localhost:http", "has no port from 0 to 65535"),
        ("localhost:65536", "has no port from 0 to 65535"),
        ("localhost:-1", "has no port from 0 to 65535"),
        ("::1:48000", "without brackets"),
        ("[localhost]:1", "no IPv6 address in its brackets"),
        ("http://localhost:1", "is a URL"),
        ("a b:1", "is not host:port"),
        ("user@host:1", "is not host:port"),
    ],
)
def test_other_addresses_are_refused_with_advice(text: str, says: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_address(text)
    assert says in f"{caught.value.message}; {caught.value.right}"


def test_which_addresses_only_this_machine_reaches() -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        assert Address(host, 1).is_loopback, host
    for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "::ffff:10.0.0.1"):
        assert not Address(host, 1).is_loopback, host
    assert Address("0.0.0.0", 1).is_wildcard
    assert Address("::", 1).is_wildcard
    assert not Address("127.0.0.1", 1).is_wildcard


def test_a_member_is_called_as_configured_or_by_host_and_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert member_name("n1", "127.0.0.1:48000") == "n1"
    for host in ("web-3", "my_laptop.local", "-", "", "x" * 300, "größe"):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        name = member_name("", "127.0.0.1:48000")
        assert check_member_name(name).endswith("-48000")


def test_what_is_advertised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "web-3")
    assert advertised("", "127.0.0.1:48000") == "127.0.0.1:48000"
    assert advertised("", "0.0.0.0:48000") == "web-3:48000"
    assert advertised("", "[::]:48000") == "web-3:48000"
    assert advertised("10.0.0.1:0", "0.0.0.0:48000") == "10.0.0.1:48000"
    assert advertised("10.0.0.1", "0.0.0.0:48000") == "10.0.0.1:48000"
    assert advertised("[fd00::1]", "[::]:48000") == "[fd00::1]:48000"
    assert advertised("fd00::1", "[::]:48000") == "[fd00::1]:48000"
    assert advertised("lb.example.com:443", "0.0.0.0:48000") == "lb.example.com:443"
