"""``ecgfed coordinator``: set up, invite, admit, keep up, run, watch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ecgshared.errors import RunError


class _Told(TyperGroup):
    """What the machine refuses (a full disk, another user's file) is told as every other error, with no traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise RunError(error.strerror or type(error).__name__, where=error.filename) from None


app = typer.Typer(
    cls=_Told,
    no_args_is_help=True,
    add_completion=False,
    help="The coordinator of a federation: its sites, its processes, its runs.",
)

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="ECGFED_COORDINATOR", help="the coordinator's folder", metavar="DIR")
]
DEFAULT_HOME = Path("coordinator")
AuthorityKey = Annotated[
    Path | None, typer.Option("--authority-key", help="the authority's key, where it is kept elsewhere", metavar="FILE")
]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON")]
Run = Annotated[str | None, typer.Argument(metavar="RUN", help="name of the run; default: the newest")]


@app.command()
def init(
    address: Annotated[str, typer.Option(help="host:port that the sites connect to", metavar="HOST:PORT")],
    home: HomeOption = DEFAULT_HOME,
    listen: Annotated[
        str | None, typer.Option(help="address:port the proxy listens on", metavar="ADDRESS:PORT")
    ] = None,
    name: Annotated[str, typer.Option(help="of the federation")] = "ecgfed",
    superlink_port: Annotated[int, typer.Option(help="of Flower's SuperLink, on 127.0.0.1 only")] = 8000,
) -> None:
    """Make the folder: an authority of its own, server certificates, secrets, configuration."""
    from server.coordinator.home import Home

    made = Home.create(home, address=address, listen=listen, name=name, superlink_port=superlink_port)
    typer.echo(f"made {made.path}: keep a copy of authority/ and sites.json in a safe place")
    typer.echo("next: ecgfed coordinator invite SITE, and ecgfed coordinator up --detach")


@app.command()
def invite(
    site: Annotated[str, typer.Argument(metavar="SITE")], home: HomeOption = DEFAULT_HOME, as_json: AsJson = False
) -> None:
    """Write the kit to send to a site; it holds nothing secret. The site answers with a request: `admit` it."""
    from server.coordinator.home import Home

    path = Home(home).invite(site)
    if as_json:
        typer.echo(json.dumps({"site": site, "kit": str(path)}))
        return
    typer.echo(f"wrote {path}")
    typer.echo(f"send it to {site}; there: ecgfed site init --kit {path.name}; it answers with {site}.csr")


@app.command()
def admit(
    request: Annotated[Path, typer.Argument(metavar="SITE.csr", help="the request that the site sent")],
    home: HomeOption = DEFAULT_HOME,
    days: Annotated[float | None, typer.Option(min=0.01, help="validity of the certificate")] = None,
    authority_key: AuthorityKey = None,
    signed: Annotated[
        Path | None, typer.Option(help="the certificate that `sign` made elsewhere", metavar="SITE.crt")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a site in: sign its request, and write the certificate to send back. Again with the same key renews it."""
    entry, path = _signing(home, authority_key).admit(request, days=days, signed=signed)
    if as_json:
        typer.echo(json.dumps({"site": entry.site, "until": str(entry.not_after), "certificate": str(path)}))
        return
    typer.echo(f"admitted {entry.site} until {entry.not_after}")
    if entry.older:
        typer.echo("its old certificate is let in until its end, or until the new one was seen")
    typer.echo(f"send {path} to the site; there: ecgfed site certificate SITE.yaml {path.name}")
    typer.echo("(a daemon that renews by itself fetches it)")


@app.command()
def sign(
    request: Annotated[Path, typer.Argument(metavar="SITE.csr", help="the request that the site sent")],
    authority: Annotated[Path, typer.Option(help="folder of ca.key and ca.crt", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="the certificate", metavar="SITE.crt")],
    days: Annotated[float, typer.Option(min=0.01, help="validity of the certificate")] = 365,
) -> None:
    """Sign a request on a machine without network that keeps the authority; take it in by `admit --signed`."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from ecgshared.service.files import write_atomically
    from server.coordinator.authority import Authority, read_request

    asked = read_request(request)
    certificate = Authority(authority, passphrase=_passphrase).admit(asked, days=days)
    write_atomically(out, certificate.public_bytes(Encoding.PEM))
    typer.echo(f"signed for {asked.site} until {certificate.not_valid_after_utc:%Y-%m-%d}: {out}")


@app.command()
def lock(home: HomeOption = DEFAULT_HOME, authority_key: AuthorityKey = None) -> None:
    """Encrypt the authority's key; what signs asks for the passphrase from then on, and nothing signs by itself."""
    authority = _signing(home, authority_key).authority
    given = typer.prompt("new passphrase", hide_input=True, confirmation_prompt=True)
    authority.lock(given)
    typer.echo(f"{authority.key_file} is encrypted; without the passphrase nothing can be signed")


@app.command()
def unlock(home: HomeOption = DEFAULT_HOME, authority_key: AuthorityKey = None) -> None:
    """Keep the authority's key in the clear again, so that renewals are signed by themselves."""
    authority = _signing(home, authority_key).authority
    authority.unlock()
    typer.echo(f"{authority.key_file} is no longer encrypted; its owner alone can read it")


@app.command()
def revoke(site: Annotated[str, typer.Argument(metavar="SITE")], home: HomeOption = DEFAULT_HOME) -> None:
    """Let a site in no more, from this second if the coordinator is up."""
    from server.coordinator.home import Home

    Home(home).revoke(site)
    typer.echo(f"{site} is revoked; to let it in again: invite it, and admit a request of a new or its old key")


@app.command()
def accept(site: Annotated[str, typer.Argument(metavar="SITE")], home: HomeOption = DEFAULT_HOME) -> None:
    """Take whichever daemon of a site comes next for the site: after it restored a backup, or a copy was ended."""
    from server.coordinator.home import Home
    from server.coordinator.sessions import Sessions
    from server.coordinator.trail import note

    found = Home(home)
    note(found.path, "accept", site=site)
    Sessions(found.path).accept(site)
    typer.echo(f"the next daemon of {site} that comes is taken for the site; make sure that only one runs")


@app.command()
def renew(
    home: HomeOption = DEFAULT_HOME,
    authority: Annotated[
        bool, typer.Option("--authority", help="the authority's own certificate too, of the same key, for ten years")
    ] = False,
    authority_key: AuthorityKey = None,
) -> None:
    """Make new certificates for the coordinator's own servers; a coordinator that is up takes them up in a second."""
    from server.coordinator.trail import note

    found = _signing(home, authority_key)
    if authority:
        note(found.path, "renew", what="authority")
        made = found.authority.renew()
        typer.echo(f"the authority is valid until {made.not_valid_after_utc:%Y-%m-%d}; sites take it up with a renewal")
    found.renew()
    typer.echo("renewed: a coordinator that is up takes it up by itself")


@app.command()
def up(
    home: HomeOption = DEFAULT_HOME,
    detach: Annotated[bool, typer.Option("--detach", help="in the background, until `down`")] = False,
) -> None:
    """Keep proxy, SuperLink and executor running, and every run that should be going on."""
    from server.coordinator.home import Home

    found = Home(home)
    if detach:
        from server.coordinator.background import start

        start(found)
        typer.echo("the coordinator is up; ecgfed coordinator status")
        return
    from server.coordinator.supervisor import Supervisor

    Supervisor(found, lambda text: typer.echo(text)).run()


@app.command()
def down(home: HomeOption = DEFAULT_HOME) -> None:
    """End the coordinator's processes; runs go on at the next `up`."""
    from server.coordinator.background import stop
    from server.coordinator.home import Home

    typer.echo("the coordinator is down" if stop(Home(home)) else "the coordinator was not up")


@app.command()
def status(
    home: HomeOption = DEFAULT_HOME, as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False
) -> None:
    """Say what runs, who is connected, and which certificates end soon; exit 1 if the coordinator is down."""
    from server.coordinator.background import describe, is_up
    from server.coordinator.home import Home

    found = Home(home)
    content, lines = describe(found)
    typer.echo(json.dumps(content, indent=1) if as_json else "\n".join(lines))
    raise SystemExit(0 if is_up(found) else 1)


@app.command()
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml")],
    home: HomeOption = DEFAULT_HOME,
    name: Annotated[str | None, typer.Option(help="of the run; default: the study's name and the time")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="do not watch")] = False,
) -> None:
    """Start a study over the admitted sites, and watch it. Ctrl-C leaves it running."""
    from server.coordinator.background import queue_run
    from server.coordinator.home import Home

    found = Home(home)
    run_name = queue_run(found, study, name)
    typer.echo(f"run {run_name}: {found.path / 'runs' / run_name}")
    if not detach:
        _watch(found, run_name)


@app.command()
def watch(run: Run = None, home: HomeOption = DEFAULT_HOME) -> None:
    """Show a run as it goes: sites, rounds, figures, bytes, who is late. Ctrl-C leaves it running."""
    from server.coordinator.home import Home

    found = Home(home)
    _watch(found, run or found.latest_run())


@app.command()
def stop(run: Run = None, home: HomeOption = DEFAULT_HOME) -> None:
    """End a run after its last checkpoint; `resume` goes on with it."""
    from server.coordinator.background import stop_run
    from server.coordinator.home import Home

    found = Home(home)
    typer.echo(stop_run(found, run or found.latest_run()))


@app.command()
def resume(
    run: Run = None,
    home: HomeOption = DEFAULT_HOME,
    detach: Annotated[bool, typer.Option("--detach", help="do not watch")] = False,
) -> None:
    """Go on with a run that was stopped, paused by an error, or failed, from its last checkpoint."""
    from server.coordinator.background import resume_run
    from server.coordinator.home import Home

    found = Home(home)
    chosen = run or found.latest_run()
    resume_run(found, chosen)
    typer.echo(f"run {chosen} goes on")
    if not detach:
        _watch(found, chosen)


@app.command()
def amend(
    run: Annotated[str, typer.Argument(metavar="RUN", help="one that is stopped, paused or failed")],
    without: Annotated[list[str], typer.Option("--without", help="a site that left for good", metavar="SITE")],
    home: HomeOption = DEFAULT_HOME,
    why: Annotated[str, typer.Option(help="one line for the other sites")] = "",
) -> None:
    """Have a run go on without sites that left for good: write the change that the other sites are to approve."""
    from server.coordinator.amending import amend_run
    from server.coordinator.home import Home

    done = amend_run(Home(home), run, without, why)
    typer.echo(f"wrote {done.file}: run {run} goes on without {', '.join(done.amendment.without)}")
    for step in done.left_out:
        typer.echo(f"step {step} is left out: nobody is left for it")
    typer.echo(f"send it to {', '.join(done.stay)}; there: ecgfed site approve SITE.yaml {done.file.name}")
    typer.echo(f"then: ecgfed coordinator resume {run}; it waits for those that have not approved yet")


@app.command()
def report(run: Run = None, home: HomeOption = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Write a run's report, results.json and event files anew."""
    from server.coordinator.home import Home
    from server.report.cli import rebuild

    found = Home(home)
    written = rebuild(found.run_folder(run or found.latest_run()))
    if as_json:
        typer.echo(json.dumps({n: str(p) for n, p in zip(("report", "results", "events"), written, strict=True)}))
        return
    for path in written:
        typer.echo(f"wrote {path}")


@app.command()
def audit(
    home: HomeOption = DEFAULT_HOME, as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False
) -> None:
    """Verify the log of what was done here, and print it joined with what befell the runs; exit 1 if it was edited."""
    from server.coordinator.home import Home
    from server.coordinator.trail import read_trail, trail_lines

    entries, fault = read_trail(Home(home).path)
    told = {"holds": not fault, "fault": fault, "entries": entries}
    typer.echo(json.dumps(told, indent=1) if as_json else "\n".join(trail_lines(entries, fault)))
    raise SystemExit(1 if fault else 0)


@app.command()
def page(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=0, max=65535, help="on 127.0.0.1; 0 takes a free one")] = 8601,
) -> None:
    """Serve a page for the coordinator on this machine: sites, invitations, runs as they go. Until Ctrl-C."""
    from server.coordinator.page import page as serve_page

    def said(address: str) -> None:
        typer.echo(f"open {address}\nthe token in it opens everything here: give it to nobody. Ctrl-C ends the page")

    serve_page(home, port, said)


def _passphrase() -> str:
    return str(typer.prompt("passphrase of the authority's key", hide_input=True))


def _signing(home: Path, authority_key: Path | None) -> Any:
    from server.coordinator.home import Home

    return Home(home, authority_key=authority_key, passphrase=_passphrase)


def _watch(home, run_name: str) -> None:  # type: ignore[no-untyped-def]
    from server.coordinator.watch import watch_run

    try:
        ended = watch_run(home.run_folder(run_name))
    except KeyboardInterrupt:
        typer.echo(f"left running; ecgfed coordinator watch {run_name}")
        return
    raise SystemExit(0 if ended == "done" else 1)
