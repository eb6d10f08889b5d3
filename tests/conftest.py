"""What all tests share."""

from __future__ import annotations

import gc

from hypothesis import settings

# How long an example takes says something about the machine, not about the code.
settings.register_profile("goverse", deadline=None)
settings.load_profile("goverse")


def pytest_collection_finish() -> None:
    """Thousands of collected tests last as long as the process: no collection looks at them."""
    gc.collect()
    gc.freeze()
