"""``completion bash|zsh|fish``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from goverse_cli.session import shared_options

SHELLS = ("bash", "zsh", "fish")
PROGRAM = "goverse-cli"
#: Set by the script that is printed: `__main__` runs click under the same name.
VARIABLE = "_GOVERSE_CLI_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@shared_options
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes a shell complete commands and options.

    \b
    Examples:
      goverse-cli completion bash > ~/.local/share/bash-completion/completions/goverse-cli
      goverse-cli completion zsh > ~/.zfunc/_goverse-cli
      goverse-cli completion fish > ~/.config/fish/completions/goverse-cli.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    script = found(ctx.find_root().command, {}, PROGRAM, VARIABLE)
    # click's own source() first looks which bash there is; what it prints does not depend on it.
    click.echo(script.source_template % script.source_vars())
