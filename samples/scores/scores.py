"""Players who report to a board: two kinds of objects that call each other."""

from __future__ import annotations

import goverse


class Board(goverse.Object):
    """The best of one game. It is told totals, not changes, so being told twice does no harm."""

    totals: dict[str, int] = {}

    @goverse.method
    async def report(self, player: str, total: int) -> int:
        """Take a player's total; the player's place, from 1."""
        self.totals[player] = total
        return 1 + sum(other > total for other in self.totals.values())

    @goverse.method(read_only=True)
    async def best(self, count: int = 3) -> list[str]:
        """Names, the best first."""
        ranked = sorted(self.totals, key=lambda name: (-self.totals[name], name))
        return ranked[:count]


class Player(goverse.Object):
    """One player, whose total lives here."""

    total: int = 0

    @goverse.method
    async def score(self, points: int, board: Board) -> int:
        """Add points and report; the place on the board. If the board cannot be told, the points
        are taken back with the turn."""
        if points < 0:
            raise goverse.ApplicationError("negative", "points must not be negative")
        self.total += points
        return await board.report(self.id, self.total)

    @goverse.method(read_only=True)
    async def show(self) -> int:
        """The total."""
        return self.total

    @goverse.method
    async def report(self, board: Board) -> int:
        """Tell a board that may have forgotten."""
        return await board.report(self.id, self.total)
