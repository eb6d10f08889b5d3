"""Finding application classes: modules by name, files by path, entry points."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from goverse.objects.definition import Object
from goverse.objects.registry import Registry

ENTRY_POINTS = "goverse.objects"


class ModuleLoadError(Exception):
    """A module could not be loaded; its own exception is the cause."""


def load_modules(modules: Sequence[str], registry: Registry) -> None:
    """Import each module (``package.module``) or file (``path/to/app.py``) and host the object
    classes in its namespace. Raises `ModuleLoadError` naming the module."""
    for name in modules:
        try:
            module = _load_file(Path(name)) if _is_path(name) else importlib.import_module(name)
            found = _add_classes(module, registry)
        except (Exception, SystemExit) as error:
            # SystemExit too: a script that ends itself when imported names nobody otherwise.
            raise ModuleLoadError(
                f"module {name!r} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        if not found:
            raise ModuleLoadError(f"module {name!r} has no class that extends goverse.Object")


def load_entry_points(registry: Registry) -> None:
    """Host what installed packages offer under ``goverse.objects``: classes or modules."""
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            loaded = point.load()
            if isinstance(loaded, ModuleType):
                _add_classes(loaded, registry)
            elif isinstance(loaded, type) and issubclass(loaded, Object):
                registry.add(loaded)
            else:
                raise TypeError(f"{loaded!r:.80} is neither a module nor an object class")
        except (Exception, SystemExit) as error:
            raise ModuleLoadError(
                f"entry point {point.name} = {point.value} of group {ENTRY_POINTS} cannot be "
                f"loaded: {type(error).__name__}: {error}"
            ) from error


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _add_classes(module: ModuleType, registry: Registry) -> int:
    # Classes that the module imported count: it imported them to call their objects, and an
    # object that no node hosts could not answer.
    found = 0
    for value in list(vars(module).values()):
        if isinstance(value, type) and issubclass(value, Object) and value is not Object:
            registry.add(value)
            found += 1
    return found


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path) and module.__name__ != "__main__":
            return module
    # Its neighbours can be imported by it, as when Python runs the file.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = _free_name(path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Registered first: annotations kept as text are resolved through sys.modules.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _free_name(stem: str) -> str:
    """``stem``, unless that is another module: a file queue.py must not replace the library's."""
    name = stem if stem.isidentifier() else "goverse_application"
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"goverse_application_{name}"
    number, free = 1, name
    while free in sys.modules:
        number += 1
        free = f"{name}_{number}"
    return free
