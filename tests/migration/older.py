"""The version before: nodes and gates that know neither state that moves along nor load reports.

It is a commit of this repository, taken out of its history and run with the libraries of today. A
clone without that history (a shallow one) is run against nodes of today's code that speak as the
older ones did: `tests.support.older_node`. That shows less, and says so.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: The newest ancestor whose wire knows of neither.
COMMIT = "8400d5664027939208d94eb5e4e4432a5a6fe402"
PACKAGES = ("goverse", "goverse_node", "goverse_gate", "goverse_cli")


@dataclass(frozen=True)
class Older:
    """
    :param what: in words. :param environment: of its processes. :param node_module: of a node.
    :param folder: that its code comes from.
    """

    what: str
    environment: dict[str, str]
    node_module: str
    folder: Path


def older_version(folder: Path, *, commit: str = COMMIT) -> Older:
    """The version before, below ``folder`` if this clone has it.

    Raises RuntimeError if it is not there although the whole history is.
    """
    archive = _git("archive", commit, "--", *PACKAGES)
    if archive is None:
        if _git("rev-parse", "--is-shallow-repository") == b"false\n":
            raise RuntimeError(f"commit {commit} is not in the history of this repository")
        return Older(
            f"commit {commit[:8]} is not in this clone: nodes of this version, speaking as it did",
            {},
            "tests.support.older_node",
            ROOT,
        )
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        folder.mkdir(parents=True, exist_ok=True)
        files.extractall(folder, filter="data")
    # Not the folder in which the command is given, but this one, is where code is looked for.
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PYTHONSAFEPATH": "1"}
    return Older(f"commit {commit[:8]}", environment, "goverse_node", folder)


def _git(*arguments: str) -> bytes | None:
    """None: it is not there, or there is no git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, check=False
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
