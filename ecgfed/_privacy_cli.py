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


@app.command(
    "epsilon", help="Print the epsilon of so many steps of subsampled Gaussian noise, the patient as the unit."
)
@app.command("noise", help="Print the least noise multiplier with which so many steps cost at most epsilon.")
def cost(
    context: typer.Context,
    sample_rate: Annotated[float, typer.Option(help="chance that a patient is in a step; 1 for full-batch steps")],
    steps: Annotated[int, typer.Option(min=1, help="steps of all rounds together")],
    delta: Annotated[float, typer.Option(help="chance that is left outside of epsilon")],
    noise_multiplier: Annotated[
        float | None, typer.Option(help="for `epsilon`: SD of the noise over the bound on a patient's gradient")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="for `noise`: most that all steps may cost")] = None,
    accountant: Annotated[
        Accountant, typer.Option(help="Renyi (rdp, a study's unless told) or privacy curves (prv)")
    ] = "rdp",
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Find one of epsilon and noise from the other: the two commands differ in nothing else."""
    from ecgshared.privacy import accounting

    given, other = (
        ("noise_multiplier", "epsilon") if context.info_name == "epsilon" else ("epsilon", "noise_multiplier")
    )
    values = {"noise_multiplier": noise_multiplier, "epsilon": epsilon}
    known = values[given]
    if known is None or values[other] is not None:
        raise typer.BadParameter(f"give --{given.replace('_', '-')}; what is printed is {other.replace('_', ' ')}")
    _check(**{given: (known, 0, math.inf)}, sample_rate=(sample_rate, 0, 1), delta=(delta, 0, 1))
    if other == "epsilon":
        spent = [accounting.Spent(known, sample_rate, steps)]
        found = accounting.epsilon_spent(spent, delta=delta, accountant=accountant)
        text = f"epsilon {found:.3f} at delta {delta:g} ({accountant})"
    else:
        found = accounting.noise_multiplier(
            epsilon=known, delta=delta, sample_rate=sample_rate, steps_total=steps, accountant=accountant
        )
        text = f"noise multiplier {found:.4f} for epsilon {known:g} at delta {delta:g} ({accountant})"
    told = {other: round(found, 6), given: known, "delta": delta, "sample_rate": sample_rate, "steps": steps}
    typer.echo(json.dumps(told | {"accountant": accountant}) if as_json else text)


def _check(**values: tuple[float, float, float]) -> None:
    from ecgshared.errors import PrivacyError

    for name, (value, low, high) in values.items():
        inside = low < value < high or (name == "sample_rate" and value == high)
        if not inside:
            allowed = f"above {low:g}" + ("" if math.isinf(high) else f", at most {high:g}")
            raise PrivacyError(
                "not a possible value", where=f"--{name.replace('_', '-')}", value=value, allowed=allowed
            )
