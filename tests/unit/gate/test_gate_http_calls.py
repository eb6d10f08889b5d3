"""What a path, the headers and an error mean in HTTP."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.errors import (
    BY_CODE,
    ApplicationError,
    Executed,
    GoverseError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from goverse_gate.http_calls import (
    Head,
    HttpProblem,
    Target,
    check_origin,
    parse_head,
    parse_target,
    parse_timeout,
    problem,
)


@pytest.mark.parametrize(
    ("path", "id"),
    [
        (b"a", "a"),
        (b"shard%235%2Fx", "shard#5/x"),
        (b"%C3%BC", "ü"),
        (b"a+b", "a+b"),
        (b"a%20b", "a b"),
        (b"%2e%2E", ".."),
        (b"", ""),
    ],
)
def test_the_path_is_split_before_it_is_unquoted(path: bytes, id: str) -> None:
    target = parse_target("POST", b"/v1/objects/Counter/" + path + b"/add")
    assert target == Target("Counter", id, "add")


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_any_names_survive_quoting(type: str, id: str, method: str) -> None:
    path = "/v1/objects/" + "/".join(quote(part, safe="") for part in (type, id, method))
    assert parse_target("POST", path.encode()) == Target(type, id, method)


@given(st.text("GETPOS", max_size=8), st.binary(max_size=200))
def test_any_path_is_a_target_or_an_error(method: str, path: bytes) -> None:
    for prefix in (b"", b"/v1/objects/", b"/v1/calls/"):
        try:
            parse_target(method, prefix + path)
        except GoverseError as error:
            assert 400 <= error.http_status < 600


@pytest.mark.parametrize("part", [b"%", b"%2", b"%zz", b"a%2", b"%ff", b"%ed%a0%80", b"\xff"])
def test_a_broken_escape_is_refused(part: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_target("POST", b"/v1/objects/Counter/" + part + b"/add")
    assert caught.value.details == {"field": "id"}


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"",
        b"/v1",
        b"/v1/objects",
        b"/v1/objects/Counter/a",
        b"/v1/objects/Counter/a/b/add",
        b"/v1/objects/Counter/a/add/",
        b"//v1/objects/Counter/a/add",
        b"/v2/objects/Counter/a/add",
        b"/v1/calls",
        b"/v1/calls/a/b",
    ],
)
def test_other_paths_are_not_found(path: bytes) -> None:
    with pytest.raises(NotFound):
        parse_target("POST", path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", b"/v1/objects/Counter/a/add", b"POST"),
        ("DELETE", b"/v1/objects/Counter/a/add", b"POST"),
        ("POST", b"/v1/calls/x", b"GET, DELETE"),
    ],
)
def test_other_methods_are_told_which_is_right(method: str, path: bytes, allowed: bytes) -> None:
    with pytest.raises(HttpProblem) as caught:
        parse_target(method, path)
    status, headers, _ = problem(caught.value)
    assert status == 405
    assert (b"allow", allowed) in headers


def test_the_outcome_of_a_reliable_call_has_a_path() -> None:
    assert parse_target("GET", b"/v1/calls/a%2Fb") == Target("", "", "", "a/b")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"5s", 5), (b"200ms", 0.2), (b"1.5s", 1.5), (b" 2m ", 120), (b"0.25s", 0.25)],
)
def test_a_timeout_has_a_unit(text: bytes, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"5", b"", b"s", b"-1s", b"0s", b"inf", b"1e9s", b"5 s", b"5h"])
def test_any_other_timeout_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgument):
        parse_timeout(text)


@given(st.lists(st.tuples(st.sampled_from([
    b"content-length", b"content-type", b"origin", b"goverse-timeout", b"goverse-call-id",
    b"traceparent", b"x-other",
]), st.binary(max_size=40)), max_size=6))  # fmt: skip
def test_any_headers_are_read_or_refused(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        head = parse_head(headers)
    except InvalidArgument:
        return
    # What is there is never taken for absent: it would be ignored in silence.
    names = [name for name, _ in headers]
    assert bool(head.origin) == (b"origin" in names)
    assert bool(head.call_id) == (b"goverse-call-id" in names)
    assert bool(head.timeout_s) == (b"goverse-timeout" in names)


ALLOWED = frozenset([b"https://app.example"])


@pytest.mark.parametrize(
    ("origin", "content_type", "passes"),
    [
        (b"", b"application/x-www-form-urlencoded", True),
        (b"", b"", True),
        (b"https://app.example", b"application/json", True),
        (b"https://app.example", b"Application/JSON; charset=utf-8", True),
        (b"https://app.example", b"application/x-www-form-urlencoded", False),
        (b"https://app.example", b"text/plain; application/json", False),
        (b"https://app.example", b"", False),
        (b"https://evil.example", b"application/json", False),
        (b"https://app.example, https://evil.example", b"application/json", False),
        (b"null", b"application/json", False),
    ],
)
def test_a_web_page_needs_json_and_an_allowed_origin(
    origin: bytes, content_type: bytes, passes: bool
) -> None:
    head = Head(origin=origin, content_type=content_type)
    if passes:
        check_origin(head, ALLOWED)
    else:
        with pytest.raises(PermissionDenied):
            check_origin(head, ALLOWED)


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_is_a_problem_with_its_code(code: str) -> None:
    cls = BY_CODE[code]
    error = cls("why", sent=True) if code == "link_broken" else cls("why")
    status, headers, body = problem(error)
    told = json.loads(body)
    assert status == told["status"] == cls.http_status
    assert told["code"] == code
    assert told["detail"] == "why"
    assert told["executed"] == error.executed.value
    assert dict(headers)[b"content-type"] == b"application/problem+json"
    assert dict(headers)[b"content-length"] == b"%d" % len(body)


def test_an_application_error_keeps_its_code_and_details() -> None:
    status, _, body = problem(ApplicationError("no_money", "not enough", {"missing": 5}))
    told = json.loads(body)
    assert status == 422
    assert (told["code"], told["details"], told["executed"]) == ("no_money", {"missing": 5}, "yes")
    assert told["executed"] == Executed.YES.value


@pytest.mark.parametrize("details", [{"a": object()}, {"a": "\ud800"}, {"a": {1.5: 2}}])
def test_details_without_a_json_form_do_not_hide_the_error(details: dict[str, object]) -> None:
    _, _, body = problem(ApplicationError("odd", "text \ud800", details))
    assert json.loads(body)["code"] == "odd"
