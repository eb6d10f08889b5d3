"""The mutants, apart from the hunt for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, edit

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_has_its_lines_in_the_code_as_it_is(mutant: Mutant) -> None:
    for file, text in edit(mutant, ROOT).items():
        compile(text, file, "exec")
