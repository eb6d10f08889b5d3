"""Goverse as a compiled wheel installs it, for processes of a benchmark."""

from __future__ import annotations

from pathlib import Path

from benchmarks.processes import output
from benchmarks.report import ROOT


async def environment() -> dict[str, str]:
    """Variables with which a child imports the compiled form, which is made if need be, and these
    benchmarks beside it. Raises RuntimeError if it cannot be made."""
    tree = (await output([str(ROOT / "scripts" / "compiled")])).decode().strip()
    if not any(Path(tree).glob("goverse/transport/link.*.so")):
        raise RuntimeError(f"what was made in {tree} is not compiled")
    # Without the second, the folder in which a child is started would come first.
    return {"PYTHONPATH": tree, "PYTHONSAFEPATH": "1"}
