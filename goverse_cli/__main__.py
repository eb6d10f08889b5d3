"""``goverse-cli``, also ``python -m goverse_cli``."""

from __future__ import annotations

import logging
import os

from goverse_cli.app import cli
from goverse_cli.outside import real_outside
from goverse_cli.session import Options


def main() -> None:
    # What goes wrong is an error with an exit code; a library's log lines would only repeat it.
    logging.getLogger().addHandler(logging.NullHandler())
    cli.main(prog_name="goverse-cli", obj=Options(outside=real_outside(), environ=dict(os.environ)))


if __name__ == "__main__":
    main()
