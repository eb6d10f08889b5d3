"""Applications are checked by mypy and pyright as they call objects, without generated code."""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
GOOD, BAD = HERE / "callers_good.py", HERE / "callers_bad.py"

Found = dict[int, set[str]]


def expected(column: int) -> Found:
    """The errors that callers_bad.py announces, by line; ``column`` 0 is mypy's."""
    found: Found = {}
    for number, line in enumerate(BAD.read_text().splitlines(), 1):
        match = re.search(r"# E: (\S+) (\S+)$", line)
        if match:
            found[number] = set(match.group(column + 1).split(","))
    assert len(found) > 10
    return found


def mypy(path: Path) -> Found:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    done = subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    found: Found = defaultdict(set)
    for line in done.stdout.splitlines():
        match = re.match(r".*?:(\d+): error: .*\[([\w-]+)\]$", line)
        if match:
            found[int(match.group(1))].add(match.group(2))
        else:
            assert ": note: " in line, line
    return found


def pyright(path: Path) -> Found:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Found = defaultdict(set)
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        if one["severity"] == "error":
            found[one["range"]["start"]["line"] + 1].add(one["rule"])
    return found


def check(found: Found, announced: Found) -> None:
    """Errors on exactly the announced lines, each of an announced kind."""
    assert sorted(found) == sorted(announced)
    for line, kinds in found.items():
        assert kinds & announced[line], (line, kinds, announced[line])


def test_mypy_accepts_good_callers():
    assert not mypy(GOOD)


def test_mypy_refuses_bad_callers_where_they_are_wrong():
    check(mypy(BAD), expected(0))


def test_pyright_accepts_good_callers():
    assert not pyright(GOOD)


def test_pyright_refuses_bad_callers_where_they_are_wrong():
    check(pyright(BAD), expected(1))
