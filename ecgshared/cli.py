"""The one command, ``ecgfed``: assembled from entry points, so that each package brings its own subcommands.

The modules named there import nothing heavy at their top: ``ecgfed --help`` loads no torch.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points, version
from typing import get_type_hints

import click
import typer
from typer.core import TyperArgument
from typer.models import ArgumentInfo

from ecgshared.errors import EcgFedError

GROUP = "ecgfed.commands"


class _Assembled(click.Group):
    """A group whose members are the entry points of :data:`GROUP`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({point.name for point in entry_points(group=GROUP)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for point in entry_points(group=GROUP):
            if point.name == cmd_name:
                return _with_words(typer.main.get_command(point.load()))
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their whole first sentence; click would cut it at the end of the line."""
        rows = []
        for name in self.list_commands(ctx):
            member = self.get_command(ctx, name)
            words = "" if member is None else (member.help or "").split("\n\n")[0]
            rows.append((name, " ".join(words.split())))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _with_words(command: click.Command) -> click.Command:
    """Return the command after giving its arguments the help they were declared with.

    click from 8.5 has a help text of its own for arguments, and clears the one that typer sets before it.
    """
    if isinstance(command, click.Group):
        for member in command.commands.values():
            _with_words(member)
    said = get_type_hints(command.callback, include_extras=True) if command.callback else {}
    for parameter in command.params:
        if isinstance(parameter, TyperArgument) and not parameter.help and parameter.name in said:
            declared = (
                part for part in getattr(said[parameter.name], "__metadata__", ()) if isinstance(part, ArgumentInfo)
            )
            parameter.help = next((part.help for part in declared if part.help), None)
    return command


@click.group(cls=_Assembled, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("ecgfed"), prog_name="ecgfed")
def command() -> None:
    """Federated training and analysis of 12-lead ECG models across hospitals."""


def main() -> None:
    """Run the command; an :class:`EcgFedError` is printed as text and ends with status 2, never a traceback."""
    # Idle threads of a tensor library spin by default, which on a machine shared with others costs five times the
    # time of the work itself (measured: 433 against 80 ms a training step). Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        command(standalone_mode=False)
    except EcgFedError as error:
        click.echo(f"ecgfed: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
