"""The forest plot of hospitals' AUCs: groups apart, and what the hospitals of one say together."""

from __future__ import annotations

import math

import numpy as np

from ecgshared.stages.results.evaluate import Result
from ecgshared.stats.meta_analysis import meta_analysis
from server.report.evaluation_tables import Pooled, Sites
from server.report.forest import Forest, ForestRow, forest
from server.report.labels import Labels


def auc_forests(r: Result, head: str, pooled: Pooled, sites: Sites, labels: Labels) -> list[Forest]:
    """One forest plot of the sites' AUCs, groups apart; none where no site tells its own."""
    rows: list[ForestRow] = []
    notes: list[str] = []
    for group in dict.fromkeys((*pooled, *(r.sites[s].group for s in sites))):
        members = {s: v for s, v in sites.items() if r.sites[s].group == group}
        rows.append(ForestRow(f"{labels.group(group)[:1].upper()}{labels.group(group)[1:]}", heading=True))
        rows += [
            ForestRow(labels.site(s), v.auc.value, v.auc.low, v.auc.high, weight=v.events, site=s)
            for s, v in members.items()
        ]
        if (p := pooled.get(group)) is not None and p.sites:
            within = p.auc_within_sites
            if p.auc.value is None and within is not None and within.value is not None:
                rows.append(ForestRow("pooled, pairs within", within.value, within.low, within.high, pooled=True))
            else:
                rows.append(ForestRow("pooled", p.auc.value, p.auc.low, p.auc.high, pooled=True))
            found, note = together(members, labels)
            rows += found
            notes += [f"{labels.pooled(group).capitalize()}: {note}"] if note else []
    if all(row.value is None for row in rows):
        return []
    caption = (
        "Squares grow with a hospital's events; the diamond 'pooled' is the AUC over all ECGs of the hospitals above "
        "it (pairs within: over pairs of ECGs of one hospital, where all pairs are known to bounds alone). Random "
        "effects and the prediction interval (dashes: where the AUC of another such hospital is to be expected) are "
        f"computed from the hospitals' own AUCs on the logit scale. {' '.join(notes)}"
    )
    title = f"AUC by hospital, {labels.endpoint(head)}"
    return [forest(title, rows, "AUC", reference=0.5, caption=caption.strip())]


def together(members: Sites, labels: Labels) -> tuple[list[ForestRow], str]:
    """Random effects over hospitals with a usable AUC, and how far they differ; nothing where there are not two.

    Hospitals with few events, whose own AUC has no interval, are in it: to leave them out would choose by luck, and the
    intervals hold with them (five to nine events at each of three to five hospitals: 97 to 99%,
    ``tests/benchmarks/test_meta_coverage.py``).
    """
    usable = {
        site: (v.auc.value, v.auc.se)
        for site, v in members.items()
        if v.auc.value is not None and v.auc.se is not None and 0 < v.auc.value < 1 and v.auc.se > 0
    }
    if len(usable) < 2:
        return [], ""
    auc, se = np.array(list(usable.values())).T
    found = meta_analysis(np.log(auc / (1 - auc)), se / (auc * (1 - auc)))
    value, low, high = (_expit(x) for x in (found.random.value, found.random.low, found.random.high))
    rows = [ForestRow("random effects", value, low, high, pooled=True)]
    below, above = found.prediction
    if math.isfinite(below) and math.isfinite(above):
        rows.append(ForestRow("prediction interval", value, _expit(below), _expit(above), interval_only=True))
    bare = [labels.site(site) for site in usable if members[site].auc.low is None]
    few = f", {' and '.join(bare)} among them with too few events for an interval of their own" if bare else ""
    return rows, f"I2 {100 * found.i2:.0f}%, tau2 {found.tau2:.3f} over {len(usable)} hospitals{few}."


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))
