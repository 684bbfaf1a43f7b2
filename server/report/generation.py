"""How a judged conditional VAE is shown: reconstruction, likeness, what conditions do, disentanglement and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ecgshared.ecg.leads import LEADS
from ecgshared.stages.results.base import MeanSd
from ecgshared.stages.results.generate import Result, SiteBeats
from server.report.labels import Labels
from server.report.sections import Block, Cell, Figure, Key, Section, Series, Table, Text

_WHOSE = {"zero_shot": "people of sites that did not train", "training": "validation patients"}


def beat_sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """Return one section, site beside site."""
    blocks: list[Block] = [*_keys(step, r, labels), Text(_ABOUT), _quality(r.sites), _by_lead(r.sites), _features(r)]
    slopes = [series for site, s in r.sites.items() if (series := _slopes(site, s)).x]
    if slopes:
        blocks.append(
            Figure(
                "What conditions do to beats",
                slopes,
                "slope in real held-out beats",
                "slope in made beats",
                reference="diagonal",
                caption="Change of each feature per SD of each condition, in SDs of the feature, all conditions "
                "in one linear fit.",
            )
        )
    return [Section(f"{labels.step(step)}: generated beats", blocks)]


_ABOUT = (
    "Beats are made from the conditions of people left out of training and a latent drawn from the prior. "
    "Beside each comparison with their real beats stands one half of the real beats against the other half: "
    "no model can do better."
)


def _keys(step: str, r: Result, labels: Labels) -> list[Key]:
    mean, sd = r.published_mae_uv
    return [
        Key(
            "Reconstruction of beats",
            f"{error:.1f} uV",
            f"mean absolute error, {words}; published for representative beats: {mean:g} +/- {sd:g} uV",
            labels.about(step),
        )
        for group, words in _WHOSE.items()
        for found, pooled in r.pooled.items()
        if found == group and (error := pooled.reconstruction_uv) is not None
    ]


def _quality(sites: Mapping[str, SiteBeats]) -> Table:
    every = sites.values()
    rows: list[list[Cell]] = [
        ["held-out ECGs", *(s.ecgs for s in every)],
        ["reconstruction, mean absolute error (SD), uV", *(_mean_sd(s.reconstruction_uv) for s in every)],
        ["the usual beat of the conditions, uV", *(s.conditions_only_uv for s in every)],
        ["squared discrepancy (MMD), made", *(s.mmd2.made for s in every)],
        ["squared discrepancy (MMD), real against real", *(s.mmd2.real for s in every)],
        ["precision (real against real)", *(_beside(s.precision, s.precision_real) for s in every)],
        ["recall (real against real)", *(_beside(s.recall, s.recall_real) for s in every)],
        ["slopes on conditions: correlation", *(s.slope_agreement.correlation for s in every)],
        ["slopes on conditions: made over real", *(s.slope_agreement.slope for s in every)],
        ["conditions told by latents, largest R2", *(_largest(s.condition_r2) for s in every)],
        ["latents, mean absolute correlation", *(s.latent_correlation for s in every)],
        ["nearest training beat, median, made (real), uV", *(_near(s)[0] for s in every)],
        ["nearest training beat, 5th percentile, made (real), uV", *(_near(s)[1] for s in every)],
    ]
    return Table("How good the beats are", ["", *sites], rows)


def _by_lead(sites: Mapping[str, SiteBeats]) -> Table:
    rows: list[Sequence[Cell]] = [[lead, *(s.leads_uv[i] for s in sites.values())] for i, lead in enumerate(LEADS)]
    return Table("Reconstruction by lead, mean absolute error, uV", ["lead", *sites], rows)


def _features(r: Result) -> Table:
    rows: list[Sequence[Cell]] = []
    for name in r.features:
        both = [s.features[name] for s in r.sites.values()]
        rows.append([name, *(f"{_mean_sd(f.made)} | {_mean_sd(f.real)}" for f in both)])
    return Table("Measured on beats, mean (SD): made | real", ["", *r.sites], rows)


def _slopes(site: str, s: SiteBeats) -> Series:
    x, y = [], []
    for name, by_condition in s.slopes.items():
        sd = s.features[name].real.sd
        for pair in by_condition.values():
            if sd and pair.real is not None and pair.made is not None:
                x.append(pair.real / sd)
                y.append(pair.made / sd)
    return Series(site, x, y, style="points")


def _mean_sd(pair: MeanSd) -> str:
    return "withheld" if pair.mean is None or pair.sd is None else f"{pair.mean:.3g} ({pair.sd:.2g})"


def _beside(value: float | None, reference: float | None) -> str:
    return "withheld" if value is None or reference is None else f"{value:.2f} ({reference:.2f})"


def _near(s: SiteBeats) -> tuple[Cell, Cell]:
    """Median and 5th percentile of the distance to the nearest training beat, which only a training site has."""
    if s.group == "zero_shot":
        return "not asked", "not asked"

    def words(made: float | None, real: float | None) -> Cell:
        return f"{made:.1f} ({real:.1f})" if made and real else "withheld"

    made, real = s.nearest_uv.made, s.nearest_uv.real
    return words(made.median, real.median), words(made.p05, real.p05)


def _largest(by_name: Mapping[str, float | None]) -> Cell:
    known = {name: value for name, value in by_name.items() if value is not None}
    return f"{max(known.values()):.2f} ({max(known, key=lambda n: known[n])})" if known else "withheld"
