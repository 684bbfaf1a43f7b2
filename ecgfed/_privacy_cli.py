"""``ecgfed privacy``: what private training costs, before anybody trains."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer

from ecgshared.privacy.config import Accountant

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="What private training costs, and the noise it needs."
)

_RATE = Annotated[float, typer.Option(help="probability with which each patient is in a step; 1 for full-batch steps")]
_STEPS = Annotated[int, typer.Option(min=1, help="steps of all rounds together")]
_DELTA = Annotated[float, typer.Option(help="chance that is left outside of epsilon")]
_ACCOUNTANT = Annotated[Accountant, typer.Option(help="Renyi (rdp, a study's unless told) or privacy curves (prv)")]
_JSON = Annotated[bool, typer.Option("--json", help="for programs")]


@app.command()
def epsilon(
    noise_multiplier: Annotated[float, typer.Option(help="SD of the noise over the bound on a patient's gradient")],
    sample_rate: _RATE,
    steps: _STEPS,
    delta: _DELTA,
    accountant: _ACCOUNTANT = "rdp",
    as_json: _JSON = False,
) -> None:
    """Print the epsilon of so many steps of subsampled Gaussian noise, the patient as the unit."""
    from ecgshared.privacy.accounting import Spent, epsilon_spent

    _check(noise_multiplier=(noise_multiplier, 0, math.inf), sample_rate=(sample_rate, 0, 1), delta=(delta, 0, 1))
    found = epsilon_spent([Spent(noise_multiplier, sample_rate, steps)], delta=delta, accountant=accountant)
    if as_json:
        told = {"epsilon": round(found, 6), "delta": delta, "noise_multiplier": noise_multiplier}
        typer.echo(json.dumps(told | {"sample_rate": sample_rate, "steps": steps, "accountant": accountant}))
    else:
        typer.echo(f"epsilon {found:.3f} at delta {delta:g} ({accountant})")


@app.command()
def noise(
    epsilon: Annotated[float, typer.Option(help="most that all steps together may cost")],
    sample_rate: _RATE,
    steps: _STEPS,
    delta: _DELTA,
    accountant: _ACCOUNTANT = "rdp",
    as_json: _JSON = False,
) -> None:
    """Print the least noise multiplier with which so many steps cost at most epsilon."""
    from ecgshared.privacy.accounting import noise_multiplier

    _check(epsilon=(epsilon, 0, math.inf), sample_rate=(sample_rate, 0, 1), delta=(delta, 0, 1))
    sigma = noise_multiplier(
        epsilon=epsilon, delta=delta, sample_rate=sample_rate, steps_total=steps, accountant=accountant
    )
    if as_json:
        told = {"noise_multiplier": round(sigma, 6), "epsilon": epsilon, "delta": delta}
        typer.echo(json.dumps(told | {"sample_rate": sample_rate, "steps": steps, "accountant": accountant}))
    else:
        typer.echo(f"noise multiplier {sigma:.4f} for epsilon {epsilon:g} at delta {delta:g} ({accountant})")


def _check(**values: tuple[float, float, float]) -> None:
    from ecgshared.errors import PrivacyError

    for name, (value, low, high) in values.items():
        inside = low < value < high or (name == "sample_rate" and value == high)
        if not inside:
            allowed = f"above {low:g}" + ("" if math.isinf(high) else f", at most {high:g}")
            raise PrivacyError(
                "not a possible value", where=f"--{name.replace('_', '-')}", value=value, allowed=allowed
            )
