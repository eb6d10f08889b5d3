"""A node dies: its objects come alive elsewhere, with empty hands, and are told again."""

import pytest
from scores import Board, Player


@pytest.mark.virtual_time
@pytest.mark.parametrize("seed", range(3))
async def test_a_board_that_was_lost_is_told_again(goverse_cluster, seed):
    async with goverse_cluster(Board, Player, nodes=3, seed=seed) as cluster:
        client = await cluster.client()
        board = client.get(Board, "chess")
        names = [f"player-{number}" for number in range(6)]
        for points, name in enumerate(names):
            await client.get(Player, name).score(points, board)

        home = cluster.owner_of("chess")
        survivors = [name for name in names if cluster.owner_of(name) != home]
        cluster.kill(home)
        # Calls wait until another node owns the shard: nobody has to try again.
        assert await board.best() == []
        assert cluster.owner_of("chess") != home

        for name in survivors:
            await client.get(Player, name).report(board)
        assert await board.best(count=6) == survivors[::-1]
