"""The files around the code: what is pinned, what is generated, what make offers."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks.__main__ import NAMES

ROOT = Path(__file__).resolve().parents[2]
TARGETS = (
    "run",
    "test",
    "check",
    "proto",
    "simulate",
    "fuzz-http",
    "migrations",
    "soak",
    "bench",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            # Exactly this form: no folder of somebody's machine, no address of a registry.
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
            assert match, line
            found[canonical(match[1])] = Version(match[2])
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    return [
        Requirement(text) for text in [*project["dependencies"], *extras["dev"], *extras["test"]]
    ]


def script(name: str) -> ModuleType:
    loader = SourceFileLoader(name.replace("-", "_"), str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_what_is_required_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = pins()[canonical(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


def test_the_python_that_is_promised() -> None:
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert sys.version_info >= (3, 11)


def test_the_license_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_changelog_has_this_version() -> None:
    assert f"\n## {PROJECT['project']['version']} " in (ROOT / "CHANGELOG.md").read_text()


def test_make_offers_what_the_pages_say() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in TARGETS:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
        assert f"make {target}" in (ROOT / "CONTRIBUTING.md").read_text()


def test_make_bench_runs_every_benchmark() -> None:
    script = (ROOT / "scripts" / "bench").read_text()
    listed = re.search(r"^for arguments in (.*?); do$", script, re.DOTALL | re.MULTILINE)
    assert listed is not None
    words = listed[1].replace("\\", " ")
    assert {line.split()[0] for line in shlex.split(words)} == set(NAMES)


def test_scripts_can_be_executed() -> None:
    for path in [ROOT / ".ci" / "run", *(ROOT / "scripts").iterdir()]:
        if path.is_file() and path.suffix != ".sql":
            assert os.access(path, os.X_OK), path
            assert path.read_text().startswith("#!"), path


def test_generated_code_is_current() -> None:
    run = [sys.executable, str(ROOT / "scripts" / "gen-proto"), "--check"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_code_runs_with_the_oldest_protobuf_and_grpcio_that_are_allowed() -> None:
    lowest = {
        canonical(requirement.name): Version(next(iter(requirement.specifier)).version)
        for requirement in requirements()
        if requirement.name in ("protobuf", "grpcio")
    }
    generated = ROOT / "goverse" / "transport" / "pb"
    for path in generated.rglob("*_pb2.py"):
        match = re.search(r"^# Protobuf Python Version: (\S+)$", path.read_text(), re.MULTILINE)
        assert match, path
        assert Version(match[1]) <= lowest["protobuf"], path
    for path in generated.rglob("*_pb2_grpc.py"):
        match = re.search(r"^GRPC_GENERATED_VERSION = '(\S+)'$", path.read_text(), re.MULTILINE)
        assert match, path
        assert Version(match[1]) <= lowest["grpcio"], path


def test_generated_modules_import_each_other_from_where_they_are() -> None:
    rewrite = script("gen-proto").rewrite
    assert rewrite("from goverse.v1 import admin_pb2 as x\n", ["goverse.v1"]) == (
        "from goverse.transport.pb.goverse.v1 import admin_pb2 as x\n"
    )
    assert rewrite("import gate_pb2 as gate__pb2\n", []) == (
        "from goverse.transport.pb import gate_pb2 as gate__pb2\n"
    )
    untouched = "from google.protobuf import any_pb2 as y\nimport grpc\n"
    assert rewrite(untouched, ["goverse.v1"]) == untouched


def test_a_sleep_in_a_test_is_found(tmp_path: Path) -> None:
    find = script("check-no-sleep").find
    unit, support = tmp_path / "tests" / "unit", tmp_path / "tests" / "support"
    unit.mkdir(parents=True)
    support.mkdir()
    call = "sle" + "ep(1)"  # this file is searched too
    (unit / "test_a.py").write_text(f"import time\nawait asyncio.{call}\n")
    (support / "b.py").write_text(call)
    assert find(tmp_path) == [f"tests/unit/test_a.py:2: await asyncio.{call}"]
    assert find(ROOT) == []


def test_every_test_file_has_a_name_of_its_own() -> None:
    # pytest imports them by their bare names.
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
