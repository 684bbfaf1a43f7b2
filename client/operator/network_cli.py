"""``ecgfed site``, the part that joins a federation: keys, approvals, and the daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

SiteFile = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="the site's file")]


def start(
    site_file: SiteFile,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="JSON lines on standard output")] = False,
) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C: it connects, and answers what was approved."""
    import os

    # Read by Flower and by tensor libraries when they are first imported, here and in the worker.
    os.environ.update({"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"})
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from importlib.metadata import version

    from client.cohort.notices import look_over
    from client.network.daemon import Daemon
    from client.network.journal import Journal
    from client.network.status import DaemonLock
    from client.site.keys import load_keys
    from client.site.settings import load_site

    settings = load_site(site_file)
    load_keys(settings)  # a lost key ends the start here, before anything is answered
    for line in look_over(settings):
        typer.echo(f"LOOK {line}", err=True)
    with DaemonLock(settings.link_state):
        journal = Journal(settings.link_state, as_json=json_logs)
        try:
            Daemon(site_file, settings, journal, version("ecgfed")).run()
        finally:
            journal.close()


def stop(
    site_file: SiteFile,
    seconds: Annotated[float, typer.Option(help="how long to wait for its end")] = 60.0,
) -> None:
    """End the daemon: what it had accepted is answered when it is started again."""
    from client.network.status import stop_daemon
    from client.site.settings import load_site

    typer.echo("stopped" if stop_daemon(load_site(site_file).link_state, seconds) else "no daemon is running")


def pause(site_file: SiteFile) -> None:
    """Refuse every question with the code `paused`; the site stays connected."""
    from client.network.status import pause as set_paused
    from client.site.settings import load_site

    settings = load_site(site_file)
    set_paused(settings.link_state, True)
    typer.echo(f"{settings.site} is paused; `ecgfed site resume` lets it go on")


def resume(site_file: SiteFile) -> None:
    """Answer questions again after `pause`."""
    from client.network.status import pause as set_paused
    from client.site.settings import load_site

    settings = load_site(site_file)
    set_paused(settings.link_state, False)
    typer.echo(f"{settings.site} goes on")


def show(
    site_file: SiteFile,
    what: Annotated[
        str, typer.Argument(metavar="STUDY", help="STUDY.yaml, the hash of one the site holds, or AMENDMENT.yaml")
    ],
) -> None:
    """Say in plain words what a study would run here, what would leave at each step, or whom an amendment takes out."""
    from client.approval.amendments import check_amendment, show_amendment
    from client.approval.show import named_study, show_study
    from client.operator.group_lines import group_lines
    from client.site.settings import load_site
    from ecgshared.study.amendment import is_amendment

    settings = load_site(site_file)
    if is_amendment(Path(what)):
        typer.echo("\n".join(show_amendment(settings, *check_amendment(settings, Path(what)))))
        return
    study = named_study(settings, what)
    typer.echo("\n".join([*show_study(settings, study), *group_lines(settings, study)]))


def annex(
    site_file: SiteFile,
    what: Annotated[str, typer.Argument(metavar="STUDY", help="STUDY.yaml, or the hash of one the site holds")],
    out: Annotated[Path | None, typer.Option(help="file to write; else it is printed")] = None,
) -> None:
    """Write the annex of a data protection impact assessment for a study at this site: what leaves, rules, risks."""
    from client.approval.annex import annex as made
    from client.approval.show import named_study
    from client.site.settings import load_site
    from ecgshared.service.files import write_atomically

    settings = load_site(site_file)
    text = made(settings, named_study(settings, what))
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        typer.echo(f"{out}: complete what stands in [brackets]")


def approve(
    site_file: SiteFile,
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="STUDY.yaml, AMENDMENT.yaml, `code`, `envelope`, or a code's sha256")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="ask nothing")] = False,
    person: Annotated[str | None, typer.Option(help="who approves, where the site wants named people to")] = None,
    person_key: Annotated[Path | None, typer.Option("--person-key", help="their key", metavar="FILE")] = None,
) -> None:
    """Approve a study, a change of its members, the installed software, or the envelope; exit 1 if not confirmed."""
    from client.approval.decision import approve as approve_it
    from client.approval.people import open_key
    from client.operator.group_lines import group_lines
    from client.site.settings import load_site

    def confirmed(lines: list[str], word: str) -> bool:
        for line in lines:
            typer.echo(line)
        return yes or typer.prompt(f"type {word} to approve") == word

    settings = load_site(site_file)
    who = None
    if person is not None:
        key = person_key or Path(f"{person}.key")
        who = open_key(settings.approvals, person, key, lambda: str(typer.prompt("passphrase", hide_input=True)))
    done = approve_it(settings, what, confirmed, lambda study: group_lines(settings, study), who)
    typer.echo(done)
    raise SystemExit(0 if done.startswith("approved") else 1)


def person(
    name: Annotated[str, typer.Argument(metavar="NAME", help="as approvals will show it")],
    out: Annotated[Path | None, typer.Option(help="the key; default: NAME.key", metavar="FILE")] = None,
) -> None:
    """Make the key of somebody who approves; print what the site file is to say of them."""
    import os

    from client.approval.people import PASSPHRASE_VARIABLE, make_key

    file = out or Path(f"{name}.key")
    given = os.environ.get(PASSPHRASE_VARIABLE) or str(
        typer.prompt("passphrase", hide_input=True, confirmation_prompt=True)
    )
    public = make_key(file, given)
    typer.echo(
        f"{file} is {name}'s alone. In the site file:\n\napprovals:\n  needed: 2\n  people:\n    {name}: {public}"
    )


def withdraw(
    site_file: SiteFile,
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="STUDY.yaml, AMENDMENT.yaml, `code`, `envelope`, or a sha256")
    ],
) -> None:
    """Take an approval back; a question that comes later is refused."""
    from client.approval.decision import withdraw as withdraw_it
    from client.site.settings import load_site

    typer.echo(withdraw_it(load_site(site_file), what))


def certificate(
    site_file: SiteFile,
    file: Annotated[Path, typer.Argument(metavar="SITE.crt", help="what the coordinator sent")],
) -> None:
    """Check the certificate the coordinator sent, and install it."""
    from client.network.enrol import install_certificate
    from client.site.settings import load_site

    found = install_certificate(load_site(site_file), file)
    typer.echo(f"installed; valid until {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    typer.echo(
        f"next: ecgfed site approve {site_file} code; ... envelope; ... STUDY.yaml; ecgfed site check {site_file}"
    )


def rekey(
    site_file: SiteFile,
    yes: Annotated[bool, typer.Option("--yes", help="ask nothing")] = False,
) -> None:
    """Begin again where the site's key is lost and no backup has it: the old state is set aside, not deleted."""
    from client.network.status import running_pid
    from client.site.keys import SITE_KEY, load_keys
    from client.site.lived import COST, set_aside
    from client.site.settings import load_site
    from ecgshared.errors import RunError

    settings = load_site(site_file)
    if running_pid(settings.link_state) is not None:
        raise RunError("the daemon is running", remedy="ecgfed site stop SITE.yaml")
    if not (settings.state / SITE_KEY).exists():
        for line in COST:
            typer.echo(f"- {line}")
        if not yes and typer.prompt(f"type {settings.site} to begin again with another key") != settings.site:
            typer.echo("nothing was done")
            raise SystemExit(1)
    aside, over = set_aside(settings.state, settings.state / SITE_KEY)
    load_keys(settings)
    typer.echo(f"a new key was made; the old state is {aside}, and {len(over)} study version(s) are over at this site")
    typer.echo("next: approve code, envelope and new studies; the coordinator: ecgfed coordinator accept SITE")


def rotate(site_file: SiteFile) -> None:
    """Put all pseudonyms of this site under another key: the split, the logs and what is remembered stay."""
    from client.network.status import running_pid
    from client.operator.rotation import rotate as rotate_pseudonyms
    from client.site.settings import load_site
    from ecgshared.errors import RunError

    settings = load_site(site_file)
    if running_pid(settings.link_state) is not None:
        raise RunError("the daemon is running", remedy="ecgfed site stop SITE.yaml")
    done = rotate_pseudonyms(settings)
    typer.echo(f"pseudonyms are under key {done.keys + 1} of this site; {len(done.files)} file(s) were rewritten")
    typer.echo("next: make a backup of the state folder; older ones hold the old pseudonyms, and go with the old keys")


def identity(site_file: SiteFile) -> None:
    """Print the fingerprint by which other sites know this one in secure sums (their `secure_sums.peers`)."""
    from client.site.identity import Identity
    from client.site.settings import load_site

    settings = load_site(site_file)
    typer.echo(f"{settings.site}: {Identity(settings).fingerprint}")


def status(
    site_file: SiteFile,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Say whether the daemon runs, and what it does; exit 1 if it does not run."""
    from client.network.status import describe, read_status, room_below, running_pid
    from client.site.settings import load_site

    settings = load_site(site_file)
    pid, found = running_pid(settings.link_state), read_status(settings.link_state)
    room = room_below(settings.state)
    told = {
        "running": pid is not None,
        **found,
        "disk_free_bytes": room.free_bytes,
        "disk_trouble": room.trouble or None,
    }
    typer.echo(json.dumps(told) if as_json else "\n".join(describe(pid, found, room)))
    raise SystemExit(0 if pid is not None else 1)


def releases(
    site_file: SiteFile,
    as_json: Annotated[bool, typer.Option("--json", help="every line in full, as JSON")] = False,
    acro: Annotated[
        Path | None, typer.Option(help="write the values too, for an output checker: ACRO's results.json and tables")
    ] = None,
    run: Annotated[str | None, typer.Option(help="for --acro: of this run only")] = None,
) -> None:
    """List all that ever left this site."""
    from client.operator.releases import as_table, read_releases
    from client.site.settings import load_site

    if acro is not None:
        from client.operator.checked_output import write_acro

        outputs, review = write_acro(load_site(site_file), acro, run)
        told = {"folder": str(acro), "outputs": outputs, "to_review": review}
        typer.echo(
            json.dumps(told) if as_json else f"{acro}: {outputs} output(s), {review} of them for a person to review"
        )
        return
    found = read_releases(load_site(site_file).state)
    typer.echo("\n".join(json.dumps(line, sort_keys=True) for line in found) if as_json else "\n".join(as_table(found)))


def audit(
    site_file: SiteFile,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Verify every log of this site and print them as one trail; exit 1 if one is not what was written."""
    from client.operator.trail import read_trail
    from client.site.settings import load_site

    trail = read_trail(load_site(site_file))
    typer.echo(json.dumps(trail.as_json(), indent=1, sort_keys=True) if as_json else "\n".join(trail.as_lines()))
    raise SystemExit(1 if trail.broken else 0)


def lockbox(
    site_file: SiteFile,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """List which steps of which runs saw the lockbox, over all studies."""
    from dataclasses import asdict

    from client.site.lockbox import lockbox_lines, lockbox_openings
    from client.site.settings import load_site

    state = load_site(site_file).state
    found = [json.dumps(asdict(o)) for o in lockbox_openings(state)] if as_json else lockbox_lines(state)
    typer.echo("\n".join(found))


def budget(
    site_file: SiteFile,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Say what private training has cost this site's patients, and how much each study may still spend."""
    from client.operator.releases import budget_facts, budget_lines
    from client.site.settings import load_site

    settings = load_site(site_file)
    typer.echo(json.dumps(budget_facts(settings), indent=1) if as_json else "\n".join(budget_lines(settings)))


def page(
    site_file: SiteFile,
    port: Annotated[int, typer.Option(min=0, max=65535, help="on 127.0.0.1; 0 takes a free one")] = 8600,
) -> None:
    """Serve a page for the operator on this machine: what is asked, what left; approve, pause, forget. Until Ctrl-C."""
    from client.operator.page import page as serve_page

    def said(address: str) -> None:
        typer.echo(f"open {address}\nthe token in it opens everything here: give it to nobody. Ctrl-C ends the page")

    serve_page(site_file, port, said)


COMMANDS = (
    certificate, identity, person, rekey, rotate,
    show, annex, approve, withdraw, start, status, pause, resume, stop, releases, lockbox,
    audit, budget, page,
)  # fmt: skip
