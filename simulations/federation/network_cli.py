"""``ecgfed demo-network``: the demo study over the real network stack, every part on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command()
def demo_network(
    out: Annotated[Path, typer.Option(help="where hospitals, coordinator and run are laid")] = Path(
        "runs/demo-network"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="remove an earlier one in --out first")] = False,
    seed: Annotated[int | None, typer.Option(help="seed of the hospitals")] = None,
) -> None:
    """Start a coordinator and a daemon for each of four made hospitals, TLS between them, and run the demo study.

    Three hospitals train, the fourth is judged zero-shot. Everything listens on 127.0.0.1 and is ended at the end.
    """
    from ecgshared.errors import RunError
    from ecgshared.study.study import load_study
    from server.coordinator.watch import watch_run
    from simulations.federation.network import LocalNetwork
    from simulations.hospitals.demo import prepare

    if (out / "coordinator").is_dir():
        if not fresh:
            raise RunError("a network demo stands here", where=out, remedy="add --fresh, or choose another --out")
        shutil.rmtree(out)
    study, files = prepare(out, seed)
    sites = dict(zip(load_study(study).sites.all, files, strict=True))
    with LocalNetwork(out, sites) as network:
        network.enrol([study])
        typer.echo(f"enrolled {', '.join(sites)}: own keys, certificates, and what they approved")
        network.start_all()
        typer.echo(f"connected over TLS: https://{network.home.config.address}")
        ended = watch_run(network.run(study, "demo"))
        if ended != "done":
            words = "\n".join(f"{site}: {network.last_words(site)}" for site in sites)
            raise RunError(f"the run ended as {ended}", where=out, value=words)
    typer.echo("all processes ended")
