"""``goverse-cli``, also ``python -m goverse_cli``."""

from __future__ import annotations

import os

from goverse_cli.app import cli
from goverse_cli.outside import real_outside
from goverse_cli.session import Options


def main() -> None:
    cli.main(prog_name="goverse-cli", obj=Options(outside=real_outside(), environ=dict(os.environ)))


if __name__ == "__main__":
    main()
