"""Tic-tac-toe for two, over HTTP alone."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

import goverse

Mark = Literal["X", "O"]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
Token = Annotated[str, msgspec.Meta(min_length=8, max_length=80)]
Cell = Annotated[int, msgspec.Meta(ge=0, le=8, description="0 to 8, row by row")]

LINES = ("012", "345", "678", "036", "147", "258", "048", "246")


class Player(msgspec.Struct):
    """A seat; who knows its token sits there."""

    name: str
    token: str
    mark: Mark


class State(msgspec.Struct):
    """What everybody may see. ``next`` is None before the second player came and at the end."""

    board: list[str]
    players: dict[str, str]
    next: Mark | None
    winner: Mark | None
    over: bool


class Game(goverse.Object):
    """One game. The first to join plays X and begins, the second plays O."""

    players: list[Player] = []
    moves: list[int] = []

    @goverse.method
    async def join(self, name: Name, token: Token) -> Mark:
        """Take a seat and learn its mark. The token is a secret of your own choice: every move
        needs it. Joining again with it changes nothing."""
        for player in self.players:
            if player.token == token:
                return player.mark
            if player.name == name:
                raise goverse.ApplicationError(
                    "name_taken", f"{name} has joined with another token"
                )
        if len(self.players) == 2:
            raise goverse.ApplicationError("full", "two players have joined already")
        mark: Mark = "O" if self.players else "X"
        self.players.append(Player(name, token, mark))
        return mark

    @goverse.method
    async def play(self, token: Token, cell: Cell) -> State:
        """Put your mark into a cell. Repeating your last move changes nothing, so it is safe when
        an answer was lost."""
        player = next((player for player in self.players if player.token == token), None)
        if player is None:
            raise goverse.ApplicationError("not_a_player", "nobody has joined with this token")
        if self.moves and self.moves[-1] == cell and self._mark(len(self.moves) - 1) == player.mark:
            return self._state()
        state = self._state()
        if state.over:
            raise goverse.ApplicationError("over", "the game is over")
        if len(self.players) < 2:
            raise goverse.ApplicationError("waiting", "the second player has not joined yet")
        if state.next != player.mark:
            raise goverse.ApplicationError("not_your_turn", f"it is the turn of {state.next}")
        if cell in self.moves:
            raise goverse.ApplicationError("taken", f"cell {cell} is taken", {"cell": cell})
        self.moves.append(cell)
        return self._state()

    @goverse.method(read_only=True)
    async def show(self) -> State:
        """The board, whose turn it is, and who has won."""
        return self._state()

    def _state(self) -> State:
        board = [" "] * 9
        for number, cell in enumerate(self.moves):
            board[cell] = self._mark(number)
        winner = self._winner(board)
        over = winner is not None or len(self.moves) == 9
        going = len(self.players) == 2 and not over
        return State(
            board=["".join(board[row : row + 3]) for row in (0, 3, 6)],
            players={player.mark: player.name for player in self.players},
            next=self._mark(len(self.moves)) if going else None,
            winner=winner,
            over=over,
        )

    def _winner(self, board: list[str]) -> Mark | None:
        for line in LINES:
            marks = {board[int(cell)] for cell in line}
            if marks == {"X"}:
                return "X"
            if marks == {"O"}:
                return "O"
        return None

    @staticmethod
    def _mark(number: int) -> Mark:
        """Who makes the move with this number."""
        return "X" if number % 2 == 0 else "O"
