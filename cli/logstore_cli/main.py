"""The entry point: finds the command, and turns every way it can end into an exit code.

0 done, nothing wrong; 1 done, and damage was found; 2 wrong usage; 3 could not; 130 interrupted. A command's module is
imported when the command is called, so that help and completion are fast.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import click

import logstore

EXIT_OK, EXIT_USAGE, EXIT_FAILED, EXIT_INTERRUPTED = 0, 2, 3, 130

_COMPLETE = "_LOGSTORE_COMPLETE"  # set by the scripts of the command `completion`

# name -> (module, what it does in one line)
COMMANDS = {
    "append": ("append", "Append records from stdin to a partition directory."),
    "check": ("check", "Find everything that is wrong with files, partitions or log directories."),
    "compact": ("compact", "Keep the last record of each key: what Kafka's log cleaner does, offline."),
    "completion": ("completion", "Print the completion script of a shell."),
    "consume": ("consume", "Print the records of a topic of a store, also as a member of a group."),
    "describe": ("describe", "Say what a path holds: topics, segments, offsets, times, codecs, transactions."),
    "docs": ("docs", "Print tables of the documentation: the settings of a log."),
    "dump": ("dump", "Print records, batches, or the entries of index and checkpoint files."),
    "groups": ("groups", "Consumer groups: what they have committed, their lag; set it anew, delete."),
    "produce": ("produce", "Send records from stdin to a topic of a store."),
    "queue": ("queue", "Jobs of a work queue: put, get, acknowledge or give back, count."),
    "read": ("read", "Print records from an offset or time on, and follow."),
    "recover": ("recover", "Bring logs back to order after a crash."),
    "reindex": ("reindex", "Make indexes, producer snapshots and leader epochs anew from the batches."),
    "retain": ("retain", "Delete old segments by the limits on size and time."),
    "topics": ("topics", "List, make, describe, change and delete the topics of a store."),
    "truncate": ("truncate", "Drop all records of a partition from an offset on."),
}


class LazyGroup(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"logstore_cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in sorted(COMMANDS.items())])


EPILOG = """\b
Examples:
  logstore describe /var/lib/kafka/data
  logstore check --json orders-3
  logstore dump --json --since 2h --key-regex '^user-' orders-3
"""


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(logstore.__version__, prog_name="logstore")
def cli() -> None:
    """Read, check, write and recover Kafka's log directories, without a broker.

    Exit codes: 0 nothing wrong, 1 damage was found, 2 wrong usage, 3 could not.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):  # names need not be UTF-8, whatever the locale
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        result = _invoke(arguments)
        sys.stdout.flush()
        return int(result or 0)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return EXIT_FAILED
    except (click.Abort, KeyboardInterrupt):
        print("logstore: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _close_quietly()
    except OSError as error:
        print(f"logstore: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED


def _invoke(arguments: list[str] | None) -> Any:
    """Parse and call, or complete for a shell. Not `cli.main`: it ends the process with 1 when a pipe is closed."""
    instruction = os.environ.get(_COMPLETE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "logstore", _COMPLETE, instruction)
    with cli.make_context("logstore", list(sys.argv[1:] if arguments is None else arguments)) as context:
        return cli.invoke(context)


def _close_quietly() -> int:
    """Whoever read the output has seen enough; keep the interpreter from flushing into the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK
