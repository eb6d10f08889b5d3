"""Loading application modules."""

import sys

import pytest

from goverse.objects import ModuleLoadError, Registry, load_entry_points, load_modules

APP = """
from __future__ import annotations
import goverse
from {helper} import VALUE

class {name}(goverse.Object):
    value: int = VALUE

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value
"""


@pytest.fixture(autouse=True)
def clean_modules():
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]
    sys.path[:] = path


def write(folder, name, text):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_file_is_loaded_once_with_its_neighbours(tmp_path):
    write(tmp_path, "loading_helper_a.py", "VALUE = 4\n")
    path = write(tmp_path, "queue.py", APP.format(helper="loading_helper_a", name="FromFile"))
    registry = Registry()
    load_modules([path], registry)
    load_modules([path], registry)
    assert [found.name for found in registry.types()] == ["FromFile"]
    import queue

    assert hasattr(queue, "SimpleQueue")  # the file did not replace the library's


def test_a_module_by_name(tmp_path):
    write(tmp_path, "loading_helper_b.py", "VALUE = 4\n")
    write(tmp_path, "loading_app_b.py", APP.format(helper="loading_helper_b", name="FromModule"))
    sys.path.append(str(tmp_path))
    registry = Registry()
    load_modules(["loading_app_b"], registry)
    assert registry.get("FromModule").cls.__module__ == "loading_app_b"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("import nothing_like_this\n", ModuleNotFoundError),
        ("raise SystemExit(2)\n", SystemExit),
        ("def broken(:\n", SyntaxError),
        ("import goverse\nclass X(goverse.Object):\n    a: int\n", TypeError),
    ],
)
def test_a_module_that_fails_to_import_is_named_with_its_cause(tmp_path, text, cause):
    path = write(tmp_path, "loading_broken.py", text)
    with pytest.raises(ModuleLoadError, match=r"loading_broken\.py") as caught:
        load_modules([path], Registry())
    assert isinstance(caught.value.__cause__, cause)
    assert "loading_broken" not in sys.modules


def test_a_module_without_objects_or_without_a_file(tmp_path):
    with pytest.raises(ModuleLoadError, match=r"no class that extends goverse.Object"):
        load_modules([write(tmp_path, "loading_empty.py", "x = 1\n")], Registry())
    with pytest.raises(ModuleLoadError, match="no file"):
        load_modules([str(tmp_path / "missing.py")], Registry())
    with pytest.raises(ModuleLoadError, match="nothing_like_this"):
        load_modules(["nothing_like_this"], Registry())


def test_entry_points(tmp_path, monkeypatch):
    write(tmp_path, "loading_helper_c.py", "VALUE = 4\n")
    write(tmp_path, "loading_app_c.py", APP.format(helper="loading_helper_c", name="Installed"))
    info = tmp_path / "loading_app_c-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loading-app-c\nVersion: 1.0\n")
    points = info / "entry_points.txt"
    points.write_text("[goverse.objects]\napp = loading_app_c\none = loading_app_c:Installed\n")
    sys.path.append(str(tmp_path))
    registry = Registry()
    load_entry_points(registry)
    assert [found.name for found in registry.types()] == ["Installed"]
    points.write_text("[goverse.objects]\napp = loading_app_c:VALUE\n")
    with pytest.raises(ModuleLoadError, match="entry point app = loading_app_c:VALUE"):
        load_entry_points(Registry())
