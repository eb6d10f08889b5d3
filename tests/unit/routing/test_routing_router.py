from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from goverse.call import Call, Receiver, Reply
from goverse.cluster import Kind
from goverse.config.settings import LimitSettings
from goverse.coordination import Delete
from goverse.errors import (
    ApplicationError,
    DeadlineExceeded,
    Executed,
    FailedPrecondition,
    Fenced,
    GoverseError,
    InvalidArgument,
    LinkBroken,
    NotOwner,
    Overloaded,
    Unavailable,
)
from goverse.ids import NO_EPOCH, Epoch, MemberId
from goverse.routing import Router
from goverse.routing.budget import RetryBudget
from goverse.testing.loop import sim_runtime
from tests.support.fed_view import KEYS, Story, claim, node, told
from tests.support.forwarding import Told, both_ways

way = both_ways(Router)

OK = Reply(b"ok")
Outcome = Reply | GoverseError | Callable[[], GoverseError]


@dataclass
class Target:
    """A `Forwarder` that answers what it is told to, and in the end always the same."""

    name: str
    then: Outcome = OK
    first: list[Outcome] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)

    async def invoke(self, call: Call) -> Reply:
        outcome = self._next(call)
        if isinstance(outcome, Reply):
            return outcome
        raise outcome

    def forward(self, call: Call, receiver: Receiver) -> asyncio.Handle:
        outcome, loop = self._next(call), asyncio.get_running_loop()
        if isinstance(outcome, Reply):
            return loop.call_soon(receiver.succeed, outcome)
        return loop.call_soon(receiver.fail, outcome)

    def _next(self, call: Call) -> Reply | GoverseError:
        self.calls.append(asyncio.get_running_loop().time())
        self.methods.append(call.method)
        assert len(self.calls) < 1_000, "called in a hot loop"
        outcome = self.first.pop(0) if self.first else self.then
        return outcome if isinstance(outcome, Reply | GoverseError) else outcome()


class Pool:
    def __init__(self) -> None:
        self.targets: dict[MemberId, Target] = {}
        self.addresses: dict[MemberId, str] = {}
        self.dropped: list[MemberId] = []

    def target(self, member: MemberId, address: str) -> Target:
        self.addresses[member] = address
        return self.targets.setdefault(member, Target(str(member)))

    def drop(self, member: MemberId, reason: str) -> None:
        self.dropped.append(member)

    def __getitem__(self, name: str) -> Target:
        return self.target(MemberId(name, "a"), f"{name}:1")


class Notes:
    def __init__(self) -> None:
        self.retries: list[str] = []
        self.waits: list[float] = []
        self.ends: list[str] = []

    def retried(self, reason: str) -> None:
        self.retries.append(reason)

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)

    def gave_up(self, reason: str) -> None:
        self.ends.append(reason)


class Setting:
    """A router over a view that is fed by hand."""

    def __init__(self, story: Story, me: str | None = None, **limits: float) -> None:
        self.story = story
        self.pool = Pool()
        self.local = Target("local")
        self.notes = Notes()
        self.router = Router(
            story.view,
            self.pool,
            me,
            self.local if me else None,
            LimitSettings(**limits),  # type: ignore[arg-type]
            sim_runtime(1, "router", loop=story.loop),
            observer=self.notes,
        )

    def call(
        self, id: str = "shard#3/x", *, within_s: float = 10.0, call_id: str = ""
    ) -> asyncio.Task[Reply]:
        deadline = self.story.loop.time() + within_s
        call = Call("Counter", id, "add", b"", deadline, call_id=call_id)
        return asyncio.create_task(self.router.invoke(call), name="call")

    async def passes(self, seconds: float) -> None:
        await asyncio.wait([asyncio.create_task(asyncio.Event().wait())], timeout=seconds)

    def epoch(self, shard: int = 3) -> Epoch:
        owner = self.story.view.owner(shard)
        assert owner is not None
        return owner.epoch


async def failure(task: asyncio.Task[Reply]) -> GoverseError:
    with pytest.raises(GoverseError) as raised:
        await task
    return raised.value


def unsent() -> LinkBroken:
    return LinkBroken("no connection", sent=False)


@told
async def test_a_call_goes_to_the_owner_of_its_shard(story: Story) -> None:
    setting = Setting(story, me="n1")
    await story.begin()
    await story.step(claim(3, "n1"), claim(4, "n2"))
    assert await setting.call("shard#3/x") is OK
    assert await setting.call("shard#4/x") is OK
    assert await setting.call("node#n2/x") is OK
    assert len(setting.local.calls) == 1
    assert len(setting.pool["n2"].calls) == 2
    assert setting.pool.addresses[MemberId("n2", "a")] == "n2:1"
    assert setting.notes.retries == []


@told
async def test_a_malformed_id_is_refused(story: Story) -> None:
    await story.begin()
    for id in ("shard#x/y", "node#/y"):
        error = await failure(Setting(story).call(id))
        assert isinstance(error, InvalidArgument) and error.executed is Executed.NO


@told
async def test_a_call_waits_for_an_owner(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    task = setting.call()
    await setting.passes(3)
    assert not task.done()
    await story.step(claim(3, "n2"))
    assert await task is OK
    assert setting.notes.retries == ["no_owner"] and setting.notes.waits[0] >= 3


@told
async def test_without_an_owner_it_ends_at_its_deadline_and_was_not_executed(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    began = story.loop.time()
    error = await failure(setting.call(within_s=2))
    assert isinstance(error, DeadlineExceeded) and isinstance(error, TimeoutError)
    assert error.executed is Executed.NO and "shard 3 had no owner" in str(error)
    assert story.loop.time() - began == pytest.approx(2)
    named = await failure(setting.call("node#n9/x", within_s=1))
    assert "node that it names is not in the cluster" in str(named)
    story.feed.contact = -1e9
    assert "coordinator has not been heard" in str(await failure(setting.call(within_s=1)))
    assert setting.notes.ends == ["deadline_exceeded"] * 3


@told
async def test_not_owner_waits_for_a_newer_epoch(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].then = NotOwner("moved", epoch=setting.epoch())
    task = setting.call()
    await setting.passes(0.2)
    await story.step(Delete(KEYS.claim(3)))
    await story.step(claim(3, "n2"))
    assert await task is OK
    assert len(setting.pool["n1"].calls) == 1
    assert setting.notes.retries == ["not_owner"]


@told
async def test_the_epoch_that_not_owner_carries_counts_too(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    # The node knows more than this view: claims up to revision 200 are over.
    setting.pool["n1"].then = NotOwner("moved", epoch=Epoch(1, 200))
    task = setting.call()
    await setting.passes(0.1)
    await story.step(Delete(KEYS.claim(3)))
    await story.step(claim(3, "n2"))  # about revision 105: known to be over as well
    await setting.passes(0.1)
    assert setting.pool["n2"].calls == []
    story.revision = 300
    await story.step(Delete(KEYS.claim(3)))
    await story.step(claim(3, "n2"))
    assert await task is OK


@told
async def test_a_node_that_has_not_heard_of_its_claim_yet_is_asked_again_soon(
    story: Story,
) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].first = [NotOwner("not mine", epoch=NO_EPOCH)] * 3
    began = story.loop.time()
    assert await setting.call() is OK
    assert len(setting.pool["n1"].calls) == 4
    assert story.loop.time() - began < 0.1


@told
async def test_a_move_that_was_called_off_is_noticed(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].first = [NotOwner("draining", epoch=setting.epoch())] * 2
    began = story.loop.time()
    assert await setting.call() is OK  # no newer epoch will ever come
    assert story.loop.time() - began < 3


@told
async def test_L18_nobody_calls_the_address_from_before_the_failover(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].then = unsent
    task = setting.call()
    await setting.passes(1.5)
    before = len(setting.pool["n1"].calls)
    assert 2 <= before <= 30
    await story.step(Delete(KEYS.member(Kind.NODE, "n1")), Delete(KEYS.claim(3)))
    assert setting.pool.dropped == [MemberId("n1", "a")]
    await setting.passes(3)
    assert len(setting.pool["n1"].calls) == before
    # The same id comes back at another address, then owns the shard again.
    await story.step(node("n1", "b"), claim(3, "n1", "b"))
    assert await task is OK
    assert len(setting.pool["n1"].calls) == before
    assert len(setting.pool.targets[MemberId("n1", "b")].calls) == 1


@told
async def test_L27_a_broken_link_is_not_tried_in_a_hot_loop(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].then = unsent
    error = await failure(setting.call(within_s=30))
    assert isinstance(error, DeadlineExceeded) and error.executed is Executed.NO
    assert "n1@a did not take it" in str(error)
    assert len(setting.pool["n1"].calls) < 120
    gaps = [after - before for before, after in pairwise(setting.pool["n1"].calls)]
    assert min(gaps) >= 0.0249


@told
async def test_what_was_sent_and_lost_is_unknown_at_once(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].then = LinkBroken("reset", sent=True)
    began = story.loop.time()
    error = await failure(setting.call())
    assert isinstance(error, Unavailable) and error.executed is Executed.UNKNOWN
    assert story.loop.time() == began and len(setting.pool["n1"].calls) == 1


@told
async def test_unknown_after_a_retry_stays_unknown(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].first = [unsent(), LinkBroken("reset", sent=True)]
    error = await failure(setting.call())
    assert error.executed is Executed.UNKNOWN and len(setting.pool["n1"].calls) == 2


@told
async def test_a_fenced_catalog_is_unavailable(story: Story) -> None:
    setting = Setting(story, me="n1")
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.local.then = Fenced("the lease is lost")
    error = await failure(setting.call())
    assert isinstance(error, Unavailable) and error.executed is Executed.UNKNOWN


@told
async def test_L36_a_call_that_has_a_call_id_is_sent_again(story: Story) -> None:
    await story.begin()
    await story.step(claim(3, "n1"))
    for lost in (
        LinkBroken("reset", sent=True),
        Fenced("the lease is lost"),
        Unavailable("its shard has moved", executed=Executed.UNKNOWN),
        Unavailable("the store is away"),
    ):
        setting = Setting(story)
        setting.pool["n1"].first = [lost, lost]
        assert await setting.call(call_id="c") is OK
        assert len(setting.pool["n1"].calls) == 3
        assert setting.notes.retries == ["repeated", "repeated"]
        # Without one it is not, as it may have run.
        setting.pool["n1"].first = [lost]
        assert isinstance(await failure(setting.call()), Unavailable)


@told
async def test_L07_no_later_no_takes_an_earlier_unknown_back(story: Story) -> None:
    await story.begin()
    await story.step(claim(3, "n1"))
    for last in (
        Overloaded("full"),
        Unavailable("the store is away"),
        lambda: NotOwner("never", epoch=NO_EPOCH),
    ):
        setting = Setting(story)
        target = setting.pool["n1"]
        target.first, target.then = [LinkBroken("reset", sent=True)], last
        error = await failure(setting.call(within_s=5, call_id="c"))
        assert error.executed is Executed.UNKNOWN
        assert len(target.calls) < 60


@told
async def test_that_a_call_was_skipped_is_an_outcome_and_says_no(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    skipped = FailedPrecondition("skipped", details={"status": "skipped"})
    setting.pool["n1"].first = [LinkBroken("reset", sent=True), skipped]
    assert (await failure(setting.call(call_id="c"))).executed is Executed.NO


@told
async def test_other_errors_pass_as_they_are(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    for error in (ApplicationError("no_money"), Overloaded("mailbox"), DeadlineExceeded("late")):
        setting.pool["n1"].first = [error]
        assert await failure(setting.call()) is error
    assert len(setting.pool["n1"].calls) == 3


@told
async def test_no_cluster_error_leaves_the_router(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].then = lambda: NotOwner("never", epoch=NO_EPOCH)
    error = await failure(setting.call(within_s=5))
    assert isinstance(error, DeadlineExceeded)
    assert len(setting.pool["n1"].calls) < 60


@told
async def test_calls_sent_again_stay_within_the_budget(story: Story) -> None:
    setting = Setting(story, retry_budget_per_s=2.0)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].then = lambda: NotOwner("never", epoch=NO_EPOCH)
    errors = await asyncio.gather(*(failure(setting.call(within_s=8)) for _ in range(10)))
    assert {type(error) for error in errors} <= {Unavailable, DeadlineExceeded}
    assert all(error.executed is Executed.NO for error in errors)
    # Ten first attempts, a burst of twenty, two a second.
    assert len(setting.pool["n1"].calls) <= 10 + 20 + 16 + 1


@told
async def test_a_cancelled_caller_leaves_nothing_behind(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    waiting = setting.call()
    await setting.passes(0.1)
    assert story.view.snapshot().waiting == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled() and story.view.snapshot().waiting == 0


@told
async def test_too_many_waiting_calls_are_overloaded(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    tasks = [setting.call(within_s=1) for _ in range(12)]  # the view lets ten wait
    found = await asyncio.gather(*map(failure, tasks))
    assert [type(error) for error in found].count(Overloaded) == 2
    assert all(error.executed is Executed.NO for error in found)


def test_the_budget_saves_ten_seconds_worth_and_gives_in_order() -> None:
    budget = RetryBudget(10.0)
    assert [budget.reserve(100.0, until=101.0) for _ in range(100)] == [100.0] * 100
    assert budget.reserve(100.0, until=101.0) == pytest.approx(100.1)
    assert budget.reserve(100.0, until=101.0) == pytest.approx(100.2)
    assert budget.reserve(100.0, until=100.2) is None
    assert budget.reserve(105.0, until=106.0) == 105.0
    with pytest.raises(ValueError, match="above 0"):
        RetryBudget(0.0)


@told
async def test_a_node_needs_a_local_target_and_a_gate_has_none(story: Story) -> None:
    runtime = sim_runtime(1, "router", loop=story.loop)
    with pytest.raises(ValueError, match="local target"):
        Router(story.view, Pool(), "n1", None, LimitSettings(), runtime)


# -- the two forms of a call ------------------------------------------------------------------


@told
async def test_a_call_does_not_overtake_one_that_waits_to_be_sent_again(story: Story) -> None:
    """The owner is known again, and who waited for it has not been woken yet."""
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    setting.pool["n1"].first = [NotOwner("moved", epoch=setting.epoch())]
    first = setting.call("shard#3/x")
    await setting.passes(0.1)
    second: list[asyncio.Task[Reply]] = []

    def arrives() -> None:
        call = Call("Counter", "shard#3/x", "second", b"", story.loop.time() + 10)
        assert setting.router.forward(call, Told()) is None
        second.append(asyncio.create_task(setting.router.invoke(call)))

    story.view.subscribe(lambda change: story.loop.call_soon(arrives))  # before it is woken
    await story.step(Delete(KEYS.claim(3)), claim(3, "n2"))
    assert await first is OK and await second[0] is OK
    assert setting.pool["n2"].methods == ["add", "second"]
    # Nothing holds anybody back any more.
    assert not setting.router._held


@told
async def test_a_forwarded_call_that_is_cancelled_while_it_waits_is_told_nothing(
    story: Story,
) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    for then, passes_s in ((unsent(), 0.0), (NotOwner("moved", epoch=setting.epoch()), 0.2)):
        setting.pool["n1"].first = [then]
        receiver = Told()
        call = Call("Counter", "shard#3/x", "add", b"", story.loop.time() + 10)
        under_way = setting.router.forward(call, receiver)
        assert under_way is not None
        await setting.passes(passes_s)
        receiver.cancelled = True
        under_way.cancel()
        under_way.cancel()
        await setting.passes(0.1)
        assert not setting.router._held and not len(setting.router._tasks)
        assert story.view.snapshot().waiting == 0
        setting.pool["n1"].first = []


@told
async def test_a_closed_router_sends_nothing_again(story: Story) -> None:
    setting = Setting(story)
    await story.begin()
    await story.step(claim(3, "n1"))
    await setting.router.close()
    setting.pool["n1"].first = [unsent()]
    receiver = Told()
    call = Call("Counter", "shard#3/x", "add", b"", story.loop.time() + 10)
    assert setting.router.forward(call, receiver) is not None
    with pytest.raises(LinkBroken) as caught:
        await receiver.future
    assert caught.value.executed is Executed.NO
    assert not setting.router._held and len(setting.pool["n1"].calls) == 1
