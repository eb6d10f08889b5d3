"""Activation, deactivation, creation, deletion, background tasks and timers."""

import asyncio

import pytest
from objects_kit import make_call, running, turns_of_the_loop, value_of

import goverse
from goverse.call import Verb
from goverse.config.settings import AutoloadSettings, LimitSettings, ObjectSettings
from goverse.errors import Fenced, NotOwner
from goverse.objects import Registry
from goverse.objects.autoload import Autoload
from goverse.sharding import NODE_SHARD
from tests.support.eventually import eventually


class World:
    """What the instances of a test share."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fail: list[BaseException] = []
        self.gates: dict[str, asyncio.Event] = {}

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())


def make(world: World, **options):
    class Thing(goverse.Object, **options):
        value: int = 0

        async def on_activate(self) -> None:
            world.log.append(f"activate {self.id}")
            if "activate" in world.gates:
                await world.gates["activate"].wait()
            if world.fail:
                raise world.fail[0]
            self.value = 100

        async def on_deactivate(self) -> None:
            world.log.append(f"deactivate {self.id} {self.value}")
            if "deactivate" in world.gates:
                await world.gates["deactivate"].wait()
            if world.fail:
                raise world.fail[0]

        @goverse.method
        async def bump(self) -> int:
            self.value += 1
            return self.value

        @goverse.method
        async def hold(self, gate: str) -> int:
            await world.gate(gate).wait()
            self.value += 1
            return self.value

        @goverse.method
        async def background(self, gate: str) -> None:
            self.spawn(self._run(gate), name="runner")

        async def _run(self, gate: str) -> None:
            world.log.append("background begins")
            try:
                await world.gate(gate).wait()
                world.log.append(f"bumped to {await goverse.get(type(self), self.id).bump()}")
                raise SystemExit(1)
            finally:
                world.log.append("background ends")

        @goverse.method
        async def timer(self, interval_s: float | None = None) -> None:
            self.handle = self.start_timer(0.0, self.tick, interval_s=interval_s)

        async def tick(self) -> None:
            self.value += 1
            world.log.append(f"tick {self.value}")
            if self.value % 2:
                raise ValueError("odd")

    return Thing


async def test_on_activate_runs_once_before_the_first_turn():
    world = World()
    thing = make(world)
    async with running(thing) as node:
        world.gate("activate")
        calls = [node.call("Thing", "x", "bump") for _ in range(3)]
        await turns_of_the_loop()
        assert node.catalog.census.objects()[0].state == "activating"
        world.gates["activate"].set()
        assert [value_of(await call) for call in calls] == [101, 102, 103]
        assert world.log == ["activate x"]


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(1), asyncio.CancelledError()])
async def test_a_failing_activation_fails_who_waited_and_the_next_call_tries_again(error):
    world = World()
    thing = make(world)
    async with running(thing) as node:
        world.gate("activate")
        world.fail.append(error)
        calls = [node.call("Thing", "x", "bump") for _ in range(3)]
        await turns_of_the_loop()
        world.gates["activate"].set()
        for call in calls:
            with pytest.raises(goverse.ObjectFailed) as caught:
                await call
            assert caught.value.executed is goverse.Executed.NO
            assert caught.value.details["type"] == type(error).__name__
        assert node.ids() == []
        world.fail.clear()
        assert value_of(await node.call("Thing", "x", "bump")) == 101
        assert sum(shard.holders for shard in node.catalog.snapshot().shards) == 0


async def test_an_application_error_in_on_activate_reaches_the_caller():
    world = World()
    world.fail.append(goverse.ApplicationError("closed", "come back later", {"hours": 3}))
    async with running(make(world)) as node:
        with pytest.raises(goverse.ApplicationError) as caught:
            await node.call("Thing", "x", "bump")
        assert caught.value.code == "closed"
        assert caught.value.details == {"hours": 3}
        assert caught.value.executed is goverse.Executed.NO


async def test_the_first_callers_cancellation_does_not_end_the_activation():
    world = World()
    async with running(make(world)) as node:
        world.gate("activate")
        first, second = (node.call("Thing", "x", "bump") for _ in range(2))
        await turns_of_the_loop()
        first.cancel()
        await turns_of_the_loop()
        world.gates["activate"].set()
        assert value_of(await second) == 101
        assert world.log == ["activate x"]


async def test_an_activation_that_hangs_ends_at_its_deadline():
    world = World()
    limits = LimitSettings(default_create_timeout_s=0.03)
    async with running(make(world), limits=limits) as node:
        world.gate("activate")
        with pytest.raises(goverse.ObjectFailed) as caught:
            await node.call("Thing", "x", "bump")
        assert caught.value.details["type"] == "TimeoutError"
        assert node.ids() == []


async def test_an_instance_that_cannot_be_made_is_not_activated():
    class Broken(goverse.Object):
        def __init__(self) -> None:
            raise ValueError("text")

        @goverse.method
        async def go(self) -> None: ...

    async with running(Broken) as node:
        with pytest.raises(goverse.ObjectFailed) as caught:
            await node.call("Broken", "x", "go")
        assert caught.value.executed is goverse.Executed.NO
        assert "text" not in str(caught.value)
        assert node.ids() == []


async def test_idle_objects_are_deactivated_and_used_ones_are_not():
    world = World()
    async with running(make(world, idle_timeout_s=0.3)) as node:
        await node.call("Thing", "idle", "bump")
        busy = node.call("Thing", "busy", "hold", gate="g")
        await eventually(lambda: node.ids() == ["busy"])
        assert "deactivate idle 101" in world.log
        world.gate("g").set()
        assert value_of(await busy) == 101
        await eventually(lambda: node.ids() == [])


async def test_calls_that_arrive_during_deactivation_get_the_next_activation_in_order():
    world = World()
    async with running(make(world, idle_timeout_s=0.05)) as node:
        world.gate("deactivate")
        await node.call("Thing", "x", "bump")
        await eventually(lambda: world.log[-1].startswith("deactivate"))
        calls = [node.call("Thing", "x", "bump") for _ in range(3)]
        creation = node.send(make_call("Thing", "x", "", verb=Verb.CREATE))
        await turns_of_the_loop()
        assert not any(call.done() for call in calls)
        world.gates["deactivate"].set()
        assert [value_of(await call) for call in calls] == [101, 102, 103]
        with pytest.raises(goverse.Conflict):
            await creation


async def test_a_failing_on_deactivate_ends_the_activation_all_the_same(caplog):
    world = World()
    async with running(make(world, idle_timeout_s=0.05)) as node:
        await node.call("Thing", "x", "bump")
        world.fail.append(ValueError("boom"))
        await eventually(lambda: node.ids() == [])
        assert "on_deactivate failed" in caplog.text


async def test_create_activates_and_conflicts_if_it_is_active():
    world = World()
    async with running(make(world)) as node:
        create = make_call("Thing", "x", "", verb=Verb.CREATE)
        assert value_of(await node.send(create)) is None
        assert world.log == ["activate x"]
        with pytest.raises(goverse.Conflict) as caught:
            await node.send(make_call("Thing", "x", "", verb=Verb.CREATE))
        assert caught.value.executed is goverse.Executed.NO
        world.gate("activate")
        calls = [node.send(make_call("Thing", "y", "", verb=Verb.CREATE)) for _ in range(2)]
        world.gates["activate"].set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[1], goverse.Conflict) and not isinstance(results[0], Exception)


async def test_delete_is_a_turn_and_later_calls_begin_anew():
    world = World()
    async with running(make(world)) as node:
        first = node.call("Thing", "x", "hold", gate="g")
        deletion = node.send(make_call("Thing", "x", "", verb=Verb.DELETE))
        later = [node.call("Thing", "x", "bump") for _ in range(2)]
        await turns_of_the_loop()
        assert not deletion.done()
        world.gate("g").set()
        assert value_of(await first) == 101
        assert value_of(await deletion) is None
        assert [value_of(await call) for call in later] == [101, 102]
        assert world.log == ["activate x", "deactivate x 101", "activate x"]


async def test_deleting_what_is_not_active_succeeds_and_activates_nothing():
    world = World()
    async with running(make(world)) as node:
        assert value_of(await node.send(make_call("Thing", "x", "", verb=Verb.DELETE))) is None
        assert world.log == [] and node.ids() == []


async def test_a_deletion_that_is_cancelled_halfway_still_deletes():
    world = World()
    async with running(make(world)) as node:
        await node.call("Thing", "x", "bump")
        world.gate("deactivate")
        deletion = node.send(make_call("Thing", "x", "", verb=Verb.DELETE))
        await turns_of_the_loop()
        deletion.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deletion
        assert node.ids() == []
        assert value_of(await node.call("Thing", "x", "bump")) == 101


async def test_background_tasks_run_outside_of_turns_and_end_alone(caplog):
    world = World()
    async with running(make(world)) as node:
        await node.call("Thing", "x", "background", gate="go")
        await eventually(lambda: "background begins" in world.log)
        assert value_of(await node.call("Thing", "x", "bump")) == 101
        world.gate("go").set()
        await eventually(lambda: "background ends" in world.log)
        assert "bumped to 102" in world.log
        assert "background runner failed" in caplog.text  # SystemExit, and the node lives


async def test_background_tasks_end_with_the_activation():
    world = World()
    async with running(make(world)) as node:
        await node.call("Thing", "x", "background", gate="never")
        await node.call("Thing", "y", "background", gate="never")  # may be deleted unstarted
        await eventually(lambda: world.log.count("background begins") == 2)
        await node.send(make_call("Thing", "x", "", verb=Verb.DELETE))
        await eventually(lambda: world.log.count("background ends") == 1)
        node.catalog.shards.discard_all("test")
        await eventually(lambda: world.log.count("background ends") == 2)


async def test_a_task_cancelled_before_its_first_step_leaves_no_warning():
    world = World()
    async with running(make(world)) as node:
        call = node.call("Thing", "x", "background", gate="never")
        await call
        node.catalog.shards.discard_all("test")
        await turns_of_the_loop()


async def test_a_dead_activation_makes_no_calls_and_starts_nothing():
    world = World()
    async with running(make(world)) as node:
        await node.call("Thing", "x", "bump")
        instance = node.catalog._activations[("Thing", "x")].instance
        await node.send(make_call("Thing", "x", "", verb=Verb.DELETE))
        work = instance._run("never")
        with pytest.raises(Fenced):
            instance.spawn(work)
        with pytest.raises(Fenced):
            instance.start_timer(1, instance.tick)


async def test_timers_run_as_turns_and_end_with_the_activation():
    world = World()
    async with running(make(world)) as node:
        await node.call("Thing", "x", "timer", interval_s=0.01)
        await eventually(lambda: world.log.count("tick 101") >= 3)
        # Each tick failed (the value was odd) and was rolled back; the timer went on.
        hold = node.call("Thing", "x", "hold", gate="g")
        await turns_of_the_loop()
        seen = len(world.log)
        await turns_of_the_loop(50)
        assert len(world.log) == seen  # the mailbox orders ticks and calls
        world.gate("g").set()
        assert value_of(await hold) == 101
        await eventually(lambda: "tick 102" in world.log)
        node.catalog._activations[("Thing", "x")].instance.handle.cancel()
        await turns_of_the_loop()
        seen = len(world.log)
        await node.call("Thing", "x", "timer")
        await eventually(lambda: len(world.log) == seen + 1)
        await node.catalog.shards.close_shard(node.facts.shard_of("x"), drain_timeout_s=1)
        assert node.ids() == []


async def test_a_timer_that_cancels_itself_ticks_no_more():
    ticks: list[int] = []

    class Clock(goverse.Object):
        @goverse.method
        async def start(self) -> None:
            self.timer = self.start_timer(0.0, self.tick, interval_s=0.001)

        async def tick(self) -> None:
            ticks.append(1)
            if len(ticks) == 3:
                self.timer.cancel()
                await turns_of_the_loop(1)
                ticks.append(0)

    async with running(Clock) as node:
        await node.call("Clock", "x", "start")
        await eventually(lambda: 0 in ticks)
        await eventually(lambda: not len(node.catalog._tasks))
        assert ticks == [1, 1, 1, 0]


async def test_hooks_do_not_run_once_the_lease_has_ended():
    world = World()
    async with running(make(world)) as node:
        first = node.call("Thing", "x", "bump")
        await turns_of_the_loop(1)  # placed, and the hook is about to run
        node.facts.lease = False
        with pytest.raises(NotOwner) as caught:
            await first
        assert caught.value.executed is goverse.Executed.NO
        node.facts.lease = True
        assert value_of(await node.call("Thing", "x", "bump")) == 101
        world.log.clear()
        node.facts.lease = False
        node.catalog._activations[("Thing", "x")].begin_deactivation()
        await eventually(lambda: node.ids() == [])
        assert world.log == []


async def test_a_single_timer_ticks_once_and_wrong_times_are_refused():
    world = World()
    async with running(make(world)) as node:
        await node.call("Thing", "x", "timer")
        await eventually(lambda: "tick 101" in world.log)
        with pytest.raises(goverse.ObjectFailed) as caught:
            await node.call("Thing", "x", "timer", interval_s=-1)
        assert caught.value.details["type"] == "ValueError"


async def test_state_changed_by_a_background_task_is_not_undone_by_a_later_failure():
    class Both(goverse.Object):
        value: int = 0

        @goverse.method
        async def begin(self) -> None:
            self.spawn(self._later())

        async def _later(self) -> None:
            self.value += 10

        @goverse.method
        async def fail(self) -> None:
            self.value += 1
            raise goverse.ApplicationError("no")

        @goverse.method
        async def read(self) -> int:
            return self.value

    async with running(Both) as node:
        both = node.get(Both)
        await both.begin()
        await eventually(lambda: node.catalog._activations[("Both", "x")].instance.value == 10)
        with pytest.raises(goverse.ApplicationError):
            await both.fail()
        assert await both.read() == 10


async def test_autoload_objects_are_active_without_being_called():
    world = World()
    autoload = (
        AutoloadSettings(type="Thing", name="main", scope="cluster"),
        AutoloadSettings(type="Thing", name="local", scope="shard"),
        AutoloadSettings(type="Thing", name="here", scope="node"),
    )
    settings = ObjectSettings(autoload=autoload, idle_timeout_s=0.05)
    async with running(make(world), settings=settings) as node:
        expected = sorted(["main", "node#n1/here", *(f"shard#{n}/local" for n in range(8))])
        await eventually(lambda: node.ids() == expected)
        await node.call("Thing", "other", "bump")
        await eventually(lambda: "deactivate other 101" in world.log)
        assert node.ids() == expected  # these are never idle


async def test_a_move_that_meets_the_end_of_the_process_is_left_to_it():
    class Slow(goverse.Object):
        @goverse.method
        async def hang(self) -> None:
            await asyncio.get_running_loop().create_future()

    async with running(Slow) as node:
        turn = asyncio.ensure_future(node.call("Slow", "shard#3/a", "hang"))
        await turns_of_the_loop(5)
        stopping = asyncio.ensure_future(node.catalog.stop(0.2))
        await turns_of_the_loop(2)
        assert not await node.catalog.shards.close_shard(3, drain_timeout_s=1.0)
        await stopping
        await asyncio.wait([turn])


def test_a_nodes_own_shard_needs_no_layout_to_load_its_objects():
    registry = Registry()
    registry.add(make(World()))
    entries = (
        AutoloadSettings(type="Thing", name="main", scope="cluster"),
        AutoloadSettings(type="Thing", name="node#n1/main", scope="cluster"),
        AutoloadSettings(type="Thing", name="here", scope="node"),
    )

    def unknown(id: str) -> int:
        raise ValueError("the layout of the cluster is not known yet")

    loaded = Autoload(entries, registry, "n1").objects_of(NODE_SHARD, unknown)
    assert [one.id for one in loaded] == ["node#n1/main", "node#n1/here"]


async def test_an_autoload_object_whose_hook_fails_is_tried_again(caplog):
    world = World()
    world.fail.append(ValueError("boom"))
    settings = ObjectSettings(autoload=(AutoloadSettings(type="Thing", name="main"),))
    async with running(make(world), settings=settings) as node:
        await eventually(lambda: "will be tried again" in caplog.text)
        world.fail.clear()
        await eventually(lambda: node.ids() == ["main"])


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (AutoloadSettings(type="Nothing", name="a"), r"objects.autoload\[0\].type"),
        (AutoloadSettings(type="Thing", name=""), r"objects.autoload\[0\].name"),
        (AutoloadSettings(type="Thing", name="a", scope="x"), r"objects.autoload\[0\].scope"),
    ],
)
async def test_autoload_entries_that_can_never_be_active_are_refused(entry, text):
    with pytest.raises(ValueError, match=text):
        async with running(make(World()), settings=ObjectSettings(autoload=(entry,))):
            pass
