"""The one command, ``ecgfed``: assembled from entry points, so that each package brings its own subcommands.

The modules named there import nothing heavy at their top: ``ecgfed --help`` loads no torch.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points, version

import click
import typer

from ecgshared.errors import EcgFedError

GROUP = "ecgfed.commands"


class _Assembled(click.Group):
    """A group whose members are the entry points of :data:`GROUP`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({point.name for point in entry_points(group=GROUP)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for point in entry_points(group=GROUP):
            if point.name == cmd_name:
                return typer.main.get_command(point.load())
        return None


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
