"""A client behind a gate while cables are cut: what it is told, and what has happened."""

import pytest
from scores import Board, Player

import goverse


@pytest.mark.virtual_time
async def test_a_lost_answer_is_unknown_and_then_it_is_looked_up(goverse_cluster):
    async with goverse_cluster(Board, Player, nodes=2) as cluster:
        client = await cluster.client()
        board, ada = client.get(Board, "chess"), client.get(Player, "ada")
        await ada.score(5, board)

        cluster.slow("g1", cluster.owner_of("ada"), 0.5)
        call = goverse.options(ada, timeout_s=0.7).score(5, board)
        with pytest.raises(goverse.GoverseError) as caught:
            await call
        # It was sent and no answer came: repeating it could count twice.
        assert caught.value.executed is goverse.Executed.UNKNOWN

        cluster.heal()
        assert await ada.show() in (5, 10)


@pytest.mark.virtual_time
async def test_a_client_that_was_cut_off_goes_on_when_it_is_back(goverse_cluster):
    async with goverse_cluster(Board, Player) as cluster:
        client = await cluster.client()
        board = client.get(Board, "chess")
        await client.get(Player, "ada").score(5, board)

        cluster.cut("client", "g1")
        with pytest.raises((goverse.Unavailable, goverse.DeadlineExceeded)):
            await goverse.options(board, timeout_s=5).best()

        cluster.heal()
        # The client reconnects by itself; nothing that was acknowledged is gone.
        assert await board.best() == ["ada"]
