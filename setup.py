"""What pyproject.toml cannot say: with GOVERSE_COMPILE=1, the path of a call is compiled by mypyc.

The modules are named there. Without the variable, or with 0, they are Python like all the others.
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from setuptools import setup


def compiled() -> list[Any]:
    if os.environ.get("GOVERSE_COMPILE", "0") in ("", "0"):
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:
        raise SystemExit(
            "GOVERSE_COMPILE=1 needs mypy where this is built: install the extra `compile`, then "
            "build with pip's --no-build-isolation"
        ) from None
    project = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text())
    modules = project["tool"]["goverse"]["compiled"]
    return list(mypycify(modules, opt_level="3", group_name="goverse"))


setup(ext_modules=compiled())
