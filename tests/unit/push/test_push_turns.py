"""What a method may push, and when it leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import pytest
from google.protobuf import struct_pb2

import goverse
import goverse.client
from goverse.errors import GoverseError, ObjectFailed
from goverse.objects.turn import MAX_PUSHES
from goverse.testing import Cluster, SimLoop, run_virtual
from tests.support.room import Note, outcomes
from tests.support.virtual import elapse


@goverse.message
class Odd:
    """JSON cannot carry all of its values."""

    value: float = 0.0
    deep: list[dict[int, str]] = []


@goverse.message
class Raw:
    """Holds JSON as somebody wrote it."""

    body: msgspec.Raw


class Pusher(goverse.Object, reentrancy="allow"):
    """Pushes what it must not."""

    trouble: str = ""

    @goverse.method
    async def me(self, text: str) -> None:
        goverse.push(goverse.context().client_id, Note(0, text))

    @goverse.method
    async def many(self, count: int) -> None:
        for number in range(count):
            goverse.push(goverse.context().client_id, Note(number))

    @goverse.method
    async def large(self, size: int) -> None:
        goverse.push(goverse.context().client_id, Note(0, "x" * size))

    @goverse.method
    async def odd(self, what: str) -> None:
        client = goverse.context().client_id
        if what == "nan":
            goverse.push(client, Odd(float("nan")))
        elif what == "keys":
            goverse.push(client, Odd(deep=[{}, {1: "x"}]))
        elif what == "plain":
            goverse.push(client, {"number": 1})
        elif what == "lines":
            goverse.push(client, Raw(msgspec.Raw(b'{"a":\n\r\n 1}')))
        elif what == "no json":
            goverse.push(client, Raw(msgspec.Raw(b"\n\nevent: register")))
        elif what == "no text":
            goverse.push(client, Raw(msgspec.Raw(b'"\xff"')))
        elif what == "id":
            goverse.push([5], Note(1))  # type: ignore[list-item]
        elif what == "nobody":
            goverse.push([], Note(1))
        elif what == "twice":
            goverse.push([client, client], Note(1))

    @goverse.method
    async def protobuf(self, text: str) -> None:
        goverse.push(goverse.context().client_id, struct_pb2.Value(string_value=text))

    @goverse.method
    async def later(self, client: str) -> None:
        async def late() -> None:
            try:
                goverse.push(client, Note(0, "from the background"))
            except GoverseError as error:
                self.trouble = str(error)

        self.spawn(late())

    @goverse.method
    async def by_timer(self) -> None:
        client = goverse.context().client_id

        async def tick() -> None:
            goverse.push(client, Note(0, "tick"))

        self.start_timer(0.1, tick)

    @goverse.method(read_only=True)
    async def what_trouble(self) -> str:
        return self.trouble

    @goverse.method
    async def outer(self, fail_inner: bool, fail_outer: bool) -> None:
        client = goverse.context().client_id
        goverse.push(client, Note(1, "outer, before"))
        try:
            await goverse.get(Pusher, self.id).inner(fail_inner)
        except ObjectFailed:
            pass
        goverse.push(client, Note(3, "outer, after"))
        if fail_outer:
            raise KeyError

    @goverse.method
    async def inner(self, fail: bool) -> None:
        goverse.push(goverse.context().client_id, Note(2, "inner"))
        if fail:
            raise KeyError


class Greeter(goverse.Object):
    """Pushes from its hook."""

    async def on_activate(self) -> None:
        goverse.push(goverse.context().client_id, Note(0, "awake"))

    @goverse.method
    async def touch(self) -> None:
        pass


def virtually(
    test: Callable[[Cluster, goverse.client.Client, list[Note]], Awaitable[None]],
) -> None:
    async def main(loop: SimLoop) -> None:
        async with Cluster(Pusher, Greeter, seed=1) as cluster:
            client = await cluster.client()
            heard: list[Note] = []
            client.on(Note, heard.append)
            await test(cluster, client, heard)

    run_virtual(main, seed=1, max_time_s=100)


def test_what_cannot_be_pushed_is_refused_with_its_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(cluster: Cluster, client: goverse.client.Client, heard: list[Note]) -> None:
        pusher = client.get(Pusher, "a")
        for method, argument, kind in (
            (pusher.odd, "nan", "InvalidArgument"),
            (pusher.odd, "keys", "InvalidArgument"),
            (pusher.odd, "plain", "TypeError"),
            (pusher.odd, "id", "TypeError"),
            (pusher.odd, "no json", "InvalidArgument"),
            (pusher.odd, "no text", "InvalidArgument"),
            (pusher.large, 256 * 1024, "TooLarge"),
        ):
            with pytest.raises(ObjectFailed) as failed:
                await method(argument)
            assert failed.value.details["type"] == kind
        for told in (
            "Odd.value cannot be pushed: JSON has no nan",
            "Odd.deep[1] cannot be pushed: the key 1 is not a string",
            "dict is no message",
            "a client id is a string, not 5",
            "(limits.max_push_bytes)",
        ):
            assert told in caplog.text
        await pusher.odd("nobody")
        await pusher.odd("twice")
        await cluster.wait_until(lambda: bool(heard))
        await elapse(1)
        assert heard == [Note(1)]

    virtually(test)


def test_a_message_is_one_line_whatever_it_holds() -> None:
    async def test(cluster: Cluster, client: goverse.client.Client, heard: list[Note]) -> None:
        got: list[Raw] = []
        client.on(Raw, got.append)
        await client.get(Pusher, "a").odd("lines")
        await cluster.wait_until(lambda: bool(got))
        assert bytes(got[0].body) == b'{"a":1}'

    virtually(test)


def test_a_turn_pushes_a_limited_number_or_nothing() -> None:
    async def test(cluster: Cluster, client: goverse.client.Client, heard: list[Note]) -> None:
        pusher = client.get(Pusher, "a")
        with pytest.raises(ObjectFailed) as failed:
            await pusher.many(MAX_PUSHES + 1)
        assert failed.value.details["type"] == "Overloaded"
        await elapse(1)
        assert heard == []
        await pusher.many(MAX_PUSHES)
        await cluster.wait_until(lambda: len(heard) == MAX_PUSHES)
        assert outcomes(cluster.member("g1").metrics) == {"delivered": MAX_PUSHES}

    virtually(test)


def test_a_background_task_cannot_push_and_a_timer_can() -> None:
    async def test(cluster: Cluster, client: goverse.client.Client, heard: list[Note]) -> None:
        pusher = client.get(Pusher, "a")
        await pusher.later(client.client_id)
        await elapse(1)
        assert "background task" in await pusher.what_trouble()
        await pusher.by_timer()
        await cluster.wait_until(lambda: heard == [Note(0, "tick")])

    virtually(test)


def test_a_hook_pushes_to_the_client_that_woke_the_object() -> None:
    async def test(cluster: Cluster, client: goverse.client.Client, heard: list[Note]) -> None:
        await client.get(Greeter, "a").touch()
        await cluster.wait_until(lambda: heard == [Note(0, "awake")])

    virtually(test)


@pytest.mark.parametrize(
    ("fail_inner", "fail_outer", "wanted"),
    [(False, False, [1, 2, 3]), (True, False, [1, 3]), (False, True, []), (True, True, [])],
)
def test_pushes_of_an_inner_turn_leave_with_the_turn_that_it_is_part_of(
    fail_inner: bool, fail_outer: bool, wanted: list[int]
) -> None:
    async def test(cluster: Cluster, client: goverse.client.Client, heard: list[Note]) -> None:
        pusher = client.get(Pusher, "a")
        try:
            await pusher.outer(fail_inner, fail_outer)
        except ObjectFailed:
            assert fail_outer
        await pusher.me("end")
        await cluster.wait_until(lambda: bool(heard) and heard[-1].text == "end")
        assert [note.number for note in heard[:-1]] == wanted

    virtually(test)


def test_a_protobuf_message_comes_as_itself() -> None:
    async def test(cluster: Cluster, client: goverse.client.Client, heard: list[Note]) -> None:
        got: list[struct_pb2.Value] = []
        client.on(struct_pb2.Value, got.append)
        await client.get(Pusher, "a").protobuf("hello")
        await cluster.wait_until(lambda: got == [struct_pb2.Value(string_value="hello")])

    virtually(test)
