"""`logstore completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

EPILOG = """\b
Examples:
  logstore completion bash > ~/.local/share/bash-completion/completions/logstore
  logstore completion zsh > "${fpath[1]}/_logstore"
  logstore completion fish > ~/.config/fish/completions/logstore.fish
"""


@click.command("completion", epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the script that makes SHELL complete logstore's commands, options and paths."""
    from logstore_cli.main import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"no completion for {shell}")
    click.echo(kind(cli, {}, "logstore", "_LOGSTORE_COMPLETE").source())
    return 0
