"""The one command, ``ecgfed``: assembled from entry points, so that each package brings its own subcommands.

The modules named there import nothing heavy at their top: ``ecgfed --help`` loads no torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from difflib import get_close_matches
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import get_type_hints

import click
import typer
from typer.core import TyperArgument, TyperGroup
from typer.models import ArgumentInfo

from ecgshared.errors import EcgFedError

GROUP = "ecgfed.commands"
TRACEBACK_VARIABLE = "ECGFED_TRACEBACK"

_CLICK = tuple(int(part) for part in version("click").split(".")[:2])


class _Assembled(click.Group):
    """A group whose members are the entry points of :data:`GROUP`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *(point.name for point in entry_points(group=GROUP))})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        for point in entry_points(group=GROUP):
            if point.name == cmd_name:
                return _with_words(typer.main.get_command(point.load()))
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was meant."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            close = get_close_matches(args[0], known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(known)}."
            raise click.UsageError(f"There is no command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

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
    if isinstance(command, TyperGroup):
        # click from 8.5 suggests a near command by itself; the hint would stand twice.
        command.suggest_commands = _CLICK < (8, 5)
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


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from ecgshared.service.fingerprint import code_sha256

        click.echo(f"ecgfed {version('ecgfed')}, code {code_sha256()[:12]}, Python {sys.version.split()[0]}")
        ctx.exit()


@click.group(cls=_Assembled, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Version, and the code's hash.",
)
def command() -> None:
    """Federated training and analysis of 12-lead ECG models across hospitals."""


@command.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete ecgfed's commands: eval "$(ecgfed completion bash)" in ~/.bashrc."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(command, {}, "ecgfed", "_ECGFED_COMPLETE").source())


@command.command()
@click.option("--out", type=click.Path(path_type=Path), help="the file; standard output where it is not given")
def sbom(out: Path | None) -> None:
    """Write what this installation is made of: a CycloneDX bill of materials, each package with version and licence."""
    from ecgshared.service.files import write_atomically
    from ecgshared.service.sbom import sbom_json

    text = sbom_json()
    if out is None:
        click.echo(text)
        return
    write_atomically(out, text.encode())
    click.echo(f"wrote {out}")


def main() -> None:
    """Run the command; an :class:`EcgFedError` is printed as text and ends with status 2, never a traceback.

    Status: 0 done; 1 not so (not running, not approved, not done); 2 a fault that the user can mend; 70 a fault of the
    software; 130 interrupted.
    """
    # Idle threads of a tensor library spin by default, which on a machine shared with others costs five times the
    # time of the work itself (measured: 433 against 80 ms a training step). Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        command(standalone_mode=False)
    except EcgFedError as error:
        click.echo(f"ecgfed: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # Who read the output went away (`| head`); what is left of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"ecgfed: {where}{error.strerror or type(error).__name__}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        # A traceback may show what stands in a table; who wants it says so.
        place = traceback.extract_tb(error.__traceback__)[-1]
        click.echo(
            f"ecgfed: a fault of this software: {type(error).__name__} at {Path(place.filename).name}:{place.lineno}\n"
            f"  to do:   report it; {TRACEBACK_VARIABLE}=1 before the command shows where it came from",
            err=True,
        )
        sys.exit(70)
