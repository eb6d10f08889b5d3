"""Chat rooms: an object per room, which pushes what is said to everybody in it."""

import time

import msgspec

import goverse

HISTORY = 100
STAY_S = 60.0
"""A page says every 20 seconds that it is still there; one that did not is gone."""


@goverse.message
class ChatMessage:
    """What is pushed. ``number`` counts the messages of a room."""

    room: str
    number: int
    author: str
    text: str


class Member(msgspec.Struct):
    name: str
    seen: float


class ChatRoom(goverse.Object):
    """A room; its id is its name."""

    members: dict[str, Member] = {}
    history: list[ChatMessage] = []
    said: int = 0

    @goverse.method
    async def join(self, name: str) -> list[ChatMessage]:
        """Enter as ``name``, and learn what was said before."""
        if not 1 <= len(name) <= 40:
            raise goverse.ApplicationError("bad_name", "a name has 1 to 40 characters")
        self.members[self._client()] = Member(name, time.time())
        return self.history

    @goverse.method
    async def stay(self) -> bool:
        """Say that the client is still there. False: the room does not know it (any more)."""
        member = self.members.get(self._client())
        if member is not None:
            member.seen = time.time()
        return member is not None

    @goverse.method
    async def leave(self) -> None:
        self.members.pop(self._client(), None)

    @goverse.method(read_only=True)
    async def names(self) -> list[str]:
        return sorted(member.name for member in self.members.values())

    @goverse.method
    async def say(self, text: str) -> int:
        """Tell everybody in the room, the speaker included."""
        member = self.members.get(self._client())
        if member is None:
            raise goverse.ApplicationError("not_here", "join the room first")
        if not 1 <= len(text) <= 2_000:
            raise goverse.ApplicationError("bad_text", "a message has 1 to 2000 characters")
        now = member.seen = time.time()
        self.members = {
            client: other for client, other in self.members.items() if now - other.seen < STAY_S
        }
        self.said += 1
        message = ChatMessage(self.id, self.said, member.name, text)
        self.history = [*self.history[1 - HISTORY :], message]
        goverse.push(self.members, message)
        return self.said

    def _client(self) -> str:
        client = goverse.context().client_id
        if not client:
            raise goverse.ApplicationError(
                "no_client", "open /v1/events first, and send its token in Goverse-Client-Token"
            )
        return client
