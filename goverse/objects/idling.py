"""What nobody has used for its idle timeout: activations, and state that came with a shard."""

from __future__ import annotations

import asyncio

from goverse.aio.deadlines import Reminders
from goverse.config.settings import ObjectSettings
from goverse.ids import ObjectId
from goverse.objects.activation import ACTIVE, Activation
from goverse.objects.autoload import Autoload
from goverse.objects.luggage import Arrivals
from goverse.objects.registry import Registry
from goverse.objects.shard import Shard, ShardState

_NEVER = float("inf")


class Idling:
    """Deactivates idle objects of one node, and drops idle luggage.

    One reminder per activation, set again when it finds that the object was used: using an object
    costs none.

    :param arrivals: where dropped luggage is counted; None on a node to which no state comes.
    """

    def __init__(
        self,
        settings: ObjectSettings,
        registry: Registry,
        autoload: Autoload,
        arrivals: Arrivals | None,
    ) -> None:
        self._timeout_s = settings.idle_timeout_s
        self._registry = registry
        self._autoload = autoload
        self._arrivals = arrivals
        self._now = asyncio.get_running_loop().time
        self._activations = Reminders(self._check, step_s=0.25)
        self._luggage = Reminders(self.check_luggage, step_s=1.0)

    def watch(self, activation: Activation, since: float) -> None:
        """``activation`` is unused since then."""
        timeout_s = self._timeout_of(activation.object_id)
        if timeout_s < _NEVER:
            activation.reminder = self._activations.add(since + timeout_s, activation)

    def forget(self, activation: Activation) -> None:
        """It is over."""
        if activation.reminder is not None:
            self._activations.cancel(activation.reminder, activation)

    def check_luggage(self, shard: Shard) -> None:
        """What came with ``shard`` and was not called is idle as an activation would be."""
        if shard.luggage is None or self._arrivals is None or shard.state is ShardState.CLOSED:
            return
        dropped, due = shard.luggage.drop_idle(self._now(), self._timeout_of)
        if dropped:
            self._arrivals.count("idle", dropped)
        if due < _NEVER:
            self._luggage.add(due, shard)

    def close(self) -> None:
        self._activations.close()
        self._luggage.close()

    def _timeout_of(self, id: ObjectId) -> float:
        if self._autoload.covers(id):
            return _NEVER
        own = self._registry.get(id.type).options.idle_timeout_s
        return self._timeout_s if own is None else own

    def _check(self, activation: Activation) -> None:
        if activation.dead:
            return
        now = self._now()
        if not activation.mailbox.idle or activation.state is not ACTIVE:
            self.watch(activation, now)
        elif now - activation.last_used < self._timeout_of(activation.object_id):
            self.watch(activation, activation.last_used)
        else:
            activation.begin_deactivation()
