"""Durations, sizes, numbers and flags: what is read, and what is refused with which advice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.config.faults import BadValue
from goverse.config.values import (
    format_duration,
    format_size,
    parse_duration,
    parse_flag,
    parse_integer,
    parse_number,
    parse_size,
)

DAY_US = 86_400_000_000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("1m30s", 90),
        ("200ms", 0.2),
        ("1h", 3600),
        ("1d12h", 129_600),
        ("1.5s", 1.5),
        ("0.5ms", 0.0005),
        ("250us", 0.00025),
        ("0s", 0),
        ("366d", 366 * 86_400),
    ],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("30", "write 30s"),
        ("1.5", "write 1.5s"),
        ("", "not a duration"),
        ("s", "not a duration"),
        ("-5s", "not a duration"),
        ("5 s", "not a duration"),
        ("5S", "not a duration"),
        ("30sec", "not a duration"),
        ("30s1m", "out of order"),
        ("1s1s", "out of order"),
        ("1m30", "not a duration"),
        ("inf", "not a duration"),
        ("1e3s", "not a duration"),
        ("٣s", "not a duration"),
        ("0.1us", "finer than a microsecond"),
        ("367d", "longer than a year"),
        ("99999999999999999999d", "longer than a year"),
        ("9" * 400 + "s", "not a duration"),
    ],
)
def test_other_durations_are_refused_with_advice(text: str, says: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_duration(text)
    assert says in f"{caught.value.message}; {caught.value.right}"
    assert caught.value.right


@given(st.integers(min_value=0, max_value=366 * DAY_US))
def test_a_formatted_duration_reads_as_itself(microseconds: int) -> None:
    seconds = microseconds / 1e6
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(alphabet="0123456789.dhmsu -+e", max_size=12))
def test_a_duration_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except BadValue:
        return
    assert 0 <= seconds <= 366 * 86_400
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("65536", 65_536), ("1B", 1), ("256KiB", 262_144), ("64 MiB", 67_108_864)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("64MB", "write 64MiB"),
        ("64M", "write 64MiB"),
        ("1k", "write 1KiB"),
        ("1.5MiB", "not a size"),
        ("-1", "not a size"),
        ("many", "not a size"),
        ("5 apples", "write 5B"),
    ],
)
def test_ambiguous_sizes_are_refused_with_advice(text: str, says: str) -> None:
    with pytest.raises(BadValue) as caught:
        parse_size(text)
    assert says in f"{caught.value.message}; {caught.value.right}"


@given(st.integers(min_value=0, max_value=2**50))
def test_a_formatted_size_reads_as_itself(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_integers_numbers_and_flags() -> None:
    assert parse_integer("8192") == parse_integer("8_192") == 8192
    assert parse_integer("010") == 10
    assert parse_number("0.5") == 0.5
    for text in ("true", "Yes", "ON", "1"):
        assert parse_flag(text) is True
    for text in ("false", "No", "off", "0"):
        assert parse_flag(text) is False


@pytest.mark.parametrize("text", ["", "1.5", "1e3", "0x10", "8,192", "__", "9" * 30])
def test_what_is_no_integer(text: str) -> None:
    with pytest.raises(BadValue):
        parse_integer(text)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-inf", "1,5", "one"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(BadValue):
        parse_number(text)


@pytest.mark.parametrize("text", ["", "maybe", "2", "truee"])
def test_what_is_no_flag(text: str) -> None:
    with pytest.raises(BadValue):
        parse_flag(text)
