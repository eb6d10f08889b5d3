"""The example tests of docs/how-to/test-your-application.md, run as in a project of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "test-your-application.md"
SCORES = ROOT / "samples" / "scores"


def run(folder: Path, file: str = "") -> subprocess.CompletedProcess[str]:
    # The plugin is found by its entry point; pytest-asyncio is left out to show that it can be.
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(folder)]
    command += ["-p", "no:asyncio", "-p", "no:cacheprovider", "-W", "error", str(folder / file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_the_examples_pass() -> None:
    done = run(SCORES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("7 passed"), done.stdout


@pytest.mark.parametrize(
    ("old", "new", "caught_by"),
    [
        ("self.totals[player] = total", "pass", "test_object.py"),
        ("-self.totals[name]", "self.totals[name]", "test_failover.py"),
        ("return self.total\n", "return 7\n", "test_network.py"),
    ],
)
def test_the_examples_can_fail(tmp_path: Path, old: str, new: str, caught_by: str) -> None:
    for path in SCORES.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    sample = tmp_path / "scores.py"
    assert sample.read_text().count(old) == 1
    sample.write_text(sample.read_text().replace(old, new))
    done = run(tmp_path, caught_by)
    assert done.returncode == 1, done.stdout
    assert f"FAILED {caught_by}" in done.stdout


def test_the_page_names_files_that_exist() -> None:
    links = re.findall(r"\]\((\.\./[^)#]+)\)", PAGE.read_text())
    assert len(links) == 4
    for link in links:
        assert (PAGE.parent / link).resolve().exists(), link
