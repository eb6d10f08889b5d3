"""What links are made with, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from goverse.aio.runtime import Runtime
from goverse.config.settings import LimitSettings
from goverse.transport.hello import Hello

_MAX_SINGLE_FRAME_BYTES = 128 * 1024


def max_message_bytes(limits: LimitSettings) -> int:
    """The longest message that is read. A batch has at most its limit, one chunk, and one frame
    that may be larger than either: an error with details, or a call with a long chain. Twice that
    leaves room for a peer whose limits are set a little higher."""
    return 2 * (limits.max_batch_bytes + limits.max_chunk_bytes + _MAX_SINGLE_FRAME_BYTES)


def _one_term() -> object:
    return None


@dataclass(frozen=True)
class LinkConfig:
    """What all links of a process have in common.

    :param name: the process, in the names of tasks and in logs.
    :param term: a link lives within one term of its process. It is asked immediately before
        every write, and if the answer is another one than when the link was opened, the link
        ends and what was queued is never sent. A node gives the validity of its lease: a process
        that was paused between a result and its sending finds out here.
    """

    limits: LimitSettings
    runtime: Runtime = field(default_factory=Runtime)
    name: str = "link"
    term: Callable[[], object] = _one_term


@dataclass(frozen=True)
class LinkSnapshot:
    """One link in numbers; at rest all counts but those of messages are zero."""

    peer: Hello
    peer_address: str
    state: str
    waiting_calls: int
    waiting_bytes: int
    served_calls: int
    served_bytes: int
    running_tasks: int
    queued_frames: int
    streams: int
    assemblies: int
    messages_sent: int
    messages_received: int
    silent_s: float

    @property
    def at_rest(self) -> bool:
        return not (
            self.waiting_calls
            or self.waiting_bytes
            or self.served_calls
            or self.served_bytes
            or self.running_tasks
            or self.queued_frames
            or self.streams
            or self.assemblies
        )
