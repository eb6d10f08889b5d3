"""One object at a time: results, errors, and what an error leaves behind."""

import pytest
from scores import Board, Player

import goverse


@pytest.mark.virtual_time
async def test_points_add_up_and_count_on_the_board(goverse_cluster):
    async with goverse_cluster(Board, Player) as cluster:
        client = await cluster.client()
        board = client.get(Board, "chess")
        assert await client.get(Player, "ada").score(5, board) == 1
        assert await client.get(Player, "bob").score(3, board) == 2
        assert await client.get(Player, "bob").score(4, board) == 1
        assert await board.best() == ["bob", "ada"]


@pytest.mark.virtual_time
async def test_a_call_that_fails_changes_nothing(goverse_cluster):
    async with goverse_cluster(Board, Player) as cluster:
        client = await cluster.client()
        board, ada = client.get(Board, "chess"), client.get(Player, "ada")
        await ada.score(5, board)
        with pytest.raises(goverse.ApplicationError, match="negative"):
            await ada.score(-1, board)
        with pytest.raises(goverse.InvalidArgument):
            await client.get("Player", "ada").score(points="many", board=board)
        assert await ada.show() == 5
        assert await board.best() == ["ada"]
