"""The stored form of declared state, across versions of a class."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import goverse
from goverse.objects.durability.stored import NewerState, StateFault, StoredForm
from goverse.objects.state import StateCodec
from goverse.storage.values import State


def form_of(cls: type[goverse.Object], version: int = 1, upgrade: Any = None) -> StoredForm:
    return StoredForm(codec_of(cls), version, upgrade or _no_upgrade)


def codec_of(cls: type[goverse.Object]) -> StateCodec:
    return cls.__goverse__.state


def _no_upgrade(version: int, state: dict[str, Any]) -> dict[str, Any]:
    raise NotImplementedError("no upgrade")


class Old(goverse.Object):
    name: str = "n"
    amount: int = 1


class New(goverse.Object):
    """A field more, another order."""

    amount: int = 1
    tags: list[str] = ["fresh"]
    name: str = "n"


class Fewer(goverse.Object):
    amount: int = 1


def stored(instance: Any, **values: Any) -> State:
    for name, value in values.items():
        setattr(instance, name, value)
    cls = type(instance)
    return form_of(cls).pack(codec_of(cls).encode(instance), None)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Anything(goverse.Object):
    first: Any = None
    second: Any = 0


@given(json_like, json_like)
def test_what_is_packed_comes_back(first: Any, second: Any) -> None:
    whole = stored(Anything(), first=first, second=second)
    again = Anything()
    assert form_of(Anything).unpack(whole, again) is None
    assert msgspec.msgpack.encode((again.first, again.second)) == msgspec.msgpack.encode(
        (first, second)
    )


def test_a_new_field_takes_its_default_and_order_does_not_matter() -> None:
    instance = New()
    assert form_of(New).unpack(stored(Old(), name="x", amount=7), instance) is None
    assert (instance.name, instance.amount, instance.tags) == ("x", 7, ["fresh"])


def test_fields_of_a_newer_process_survive_an_older_one() -> None:
    whole = stored(New(), name="x", amount=7, tags=["a", "b"])
    old = Fewer()
    form = form_of(Fewer)
    kept = form.unpack(whole, old)
    old.amount += 1
    whole = form.pack(codec_of(Fewer).encode(old), kept)
    new = New()
    assert form_of(New).unpack(whole, new) is None
    assert (new.name, new.amount, new.tags) == ("x", 8, ["a", "b"])


@given(st.integers(0, 40))
def test_any_number_of_kept_fields_is_packed(count: int) -> None:
    names = [f"field{number}" for number in range(count)]
    raw = msgspec.msgpack.encode(([*names, "amount"], [*range(count), 5]))
    instance = Fewer()
    form = form_of(Fewer)
    kept = form.unpack(State(raw, 1), instance)
    again = msgspec.msgpack.decode(form.pack(codec_of(Fewer).encode(instance), kept).data)
    assert dict(zip(again[0], again[1], strict=True)) == {
        "amount": 5,
        **{name: number for number, name in enumerate(names)},
    }


def test_an_older_version_is_upgraded() -> None:
    def upgrade(version: int, state: dict[str, Any]) -> dict[str, Any]:
        assert version == 1
        return {"amount": state["amount"] * 100}

    instance = Fewer()
    form_of(Fewer, 2, upgrade).unpack(stored(Old(), amount=3), instance)
    assert instance.amount == 300


def test_L12_a_newer_version_is_left_alone() -> None:
    whole = form_of(Fewer, 3).pack(codec_of(Fewer).encode(Fewer()), None)
    with pytest.raises(NewerState, match="version 3, this process knows up to 2"):
        form_of(Fewer, 2).unpack(whole, Fewer())


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (msgspec.msgpack.encode((["amount"], ["text"])), "amount"),
        (msgspec.msgpack.encode((["amount", "more"], [1])), "zip"),
        (b"\xc1", "stored state"),
        (b"", "stored state"),
        (msgspec.msgpack.encode({"amount": 1}), "stored state"),
    ],
)
def test_what_does_not_fit_is_told(raw: bytes, said: str) -> None:
    with pytest.raises(StateFault, match=said):
        form_of(Fewer).unpack(State(raw, 1), Fewer())


@pytest.mark.parametrize(
    ("upgraded", "said"),
    [(None, "not a dict"), ({"nope": 1}, "'nope'"), ({"amount": "text"}, "amount")],
)
def test_a_wrong_upgrade_is_told(upgraded: Any, said: str) -> None:
    form = form_of(Fewer, 2, lambda version, state: upgraded)
    with pytest.raises(StateFault, match=said):
        form.unpack(stored(Fewer()), Fewer())


def test_a_class_says_how_its_older_states_become_newer_ones() -> None:
    class Renamed(goverse.Object, durability="acknowledged", state_version=2):
        total: int = 0

        @classmethod
        def upgrade_state(cls, version: int, state: dict[str, Any]) -> dict[str, Any]:
            assert version == 1
            return {"total": state["amount"]}

    form, instance = Renamed.__goverse__.stored, Renamed()
    assert form is not None
    assert form.unpack(stored(Fewer(), amount=5), instance) is None
    assert instance.total == 5


def test_upgrading_is_the_business_of_the_class() -> None:
    with pytest.raises(TypeError, match="upgrade_state must be a classmethod"):

        class Wrong(goverse.Object, durability="acknowledged", state_version=2):
            total: int = 0

            def upgrade_state(  # type: ignore[override]
                self, version: int, state: dict[str, Any]
            ) -> dict[str, Any]:
                return state
