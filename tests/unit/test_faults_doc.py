"""docs/FAULTS.md lists every line, and the tests it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "FAULTS.md"
ROWS = re.findall(r"^\| (L\d\d) \| (.+?) \| ?(.*?) ?\|$", DOC.read_text(), flags=re.MULTILINE)

LINES = [f"L{number:02}" for number in range(1, 38)]
#: Lines that must have a test by now.
DUE = ["L04", "L05", "L10", "L15", "L16", "L17", "L18", "L20", "L21", "L22", "L23", "L24"]
DUE += ["L28", "L35"]


def named_in(column: str) -> list[str]:
    return re.findall(r"`((?:tests|goverse/testing/conformance)/[^`]+)`", column)


def test_every_line_stands_there_once_and_in_order() -> None:
    assert [line for line, _, _ in ROWS] == LINES


@pytest.mark.parametrize(("line", "fault", "column"), ROWS, ids=LINES)
def test_a_row_names_tests_that_exist_or_says_that_it_is_not_covered(
    line: str, fault: str, column: str
) -> None:
    assert len(fault) > 40, "says what goes wrong"
    names = named_in(column)
    for name in names:
        path, _, function = name.partition("::")
        assert re.match(rf"test_(L\d\d_)*{line}_", function), f"{name} is not named after {line}"
        source = (ROOT / path).read_text()
        assert re.search(rf"def {function}\(", source), f"{name} does not exist"
    if line in DUE:
        assert names, f"{line} is due and has no test"
        assert "Not covered" not in column
    elif not names:
        assert column.startswith("Not covered yet: "), f"{line} has no test and does not say so"


def test_no_test_is_left_out() -> None:
    run = [sys.executable, str(ROOT / "scripts" / "faults-doc"), "--check"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
