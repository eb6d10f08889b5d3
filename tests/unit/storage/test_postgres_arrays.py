"""Columns as PostgreSQL's binary arrays, read back by psycopg's own decoder."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest
from psycopg.adapt import Transformer
from psycopg.pq import Format

from goverse.storage.postgres import arrays

INTEGERS: list[list[int | None]] = [[], [1], [1, 2, -3], [None], [None, 7, None], [5] * 300]


def decoded(column: arrays.Array) -> Any:
    return Transformer().get_loader(column.oid, Format.BINARY).load(bytes(column))


@pytest.mark.parametrize("numbers", INTEGERS)
@pytest.mark.parametrize("encode", [arrays.int2s, arrays.int4s, arrays.int8s])
def test_integers(encode: Any, numbers: list[int | None]) -> None:
    assert decoded(encode(numbers)) == numbers


def test_the_widest_integers() -> None:
    for encode, bits in ((arrays.int2s, 15), (arrays.int4s, 31), (arrays.int8s, 63)):
        assert decoded(encode([-(2**bits), 2**bits - 1])) == [-(2**bits), 2**bits - 1]


@pytest.mark.parametrize(
    "values",
    [[], [""], ["", ""], ["a"] * 70, ["a", "b", "a"], ["\U0001f600é", "{,}\"'\\", "NULL", " "]],
)
def test_texts(values: list[str]) -> None:
    assert decoded(arrays.texts(values)) == values


@pytest.mark.parametrize(
    "values",
    [[], [None], [None, None], [b""], [b"x"] * 3, [b"x", None, b"\x00" * 1000], [None, b"x"]],
)
def test_blobs(values: list[bytes | None]) -> None:
    assert decoded(arrays.blobs(values)) == values


def test_any_mixture_comes_back(seed: int = 7) -> None:
    source = random.Random(seed)
    for _ in range(200):
        count = source.randrange(40)
        numbers = [source.choice([None, source.randrange(-(2**63), 2**63)]) for _ in range(count)]
        assert decoded(arrays.int8s(numbers)) == numbers
        pool = [None, b"", source.randbytes(3), source.randbytes(300)]
        blobs = [source.choice(pool) for _ in range(count)]
        assert decoded(arrays.blobs(blobs)) == blobs


def test_parameters_are_numbered_in_their_order() -> None:
    assert arrays.numbered("SELECT %s::int4[], %b, %s WHERE x") == (
        b"SELECT $1::int4[], $2, $3 WHERE x"
    )


def test_the_types_are_those_of_the_catalog() -> None:
    for column in (arrays.Int2s, arrays.Int4s, arrays.Int8s, arrays.Texts, arrays.Blobs):
        info = psycopg.adapters.types.get(column.element)
        assert info is not None and info.array_oid == column.oid
