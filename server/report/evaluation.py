"""How an evaluation is shown: headlines first, then tables, forest plot and curves, one section an endpoint."""

from __future__ import annotations

from ecgshared.stages.results.base import EstimateResult, Group
from ecgshared.stages.results.evaluate import PooledHead, Result, SiteHead
from server.report.auc_forest import auc_forests
from server.report.evaluation_curves import curves, decisions
from server.report.evaluation_tables import (
    chosen_by_luck,
    compared_tables,
    figure_tables,
    subgroup_blocks,
    threshold_table,
    weighted_tables,
)
from server.report.glossary import in_words
from server.report.labels import Labels
from server.report.sections import Block, Key, Section, Text


def sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """Return one section an endpoint."""
    return [
        Section(f"{labels.step(step)}: {labels.endpoint(head)}", _blocks(step, r, head, labels)) for head in r.heads
    ]


def _blocks(step: str, r: Result, head: str, labels: Labels) -> list[Block]:
    # Nothing is withheld where nothing is known: such hospitals are named, and have no line.
    unknown = [s for s in r.sites if not labels.offers(s, head)]
    sites = {s: v.heads[head] for s, v in r.sites.items() if s not in unknown}
    knowing = {r.sites[s].group for s in sites}
    pooled = {g: by_head[head] for g, by_head in r.pooled.items() if g in knowing or not unknown}
    blocks: list[Block] = [_key(step, r, group, head, p, labels) for group, p in pooled.items()]
    series = [s for s in sites if r.sites[s].group == "case_control"]
    blocks += [_key_of_series(step, r, s, head, sites[s], labels) for s in series]
    # A group of one hospital is that hospital, and has no figures beside its own.
    pooled = {group: p for group, p in pooled.items() if len(p.sites) != 1}
    blocks += [
        Text(
            f"Score: {labels.score(r.score)}. 95% intervals are clustered by patient where a hospital knows its "
            "patients; bounds hold what all scores, put together, would give. Training hospitals and hospitals that "
            "never trained are never pooled together."
            + (f" Whether it followed is not known at {', '.join(map(labels.site, unknown))}." if unknown else "")
        ),
        *figure_tables(pooled, sites, labels, series),
        *chosen_by_luck(pooled, labels),
        *auc_forests(r, head, pooled, sites, labels),
        *curves(step, head, pooled, sites, labels),
        *decisions(pooled, sites, labels),
    ]
    at_cut = [v.threshold for v in sites.values() if v.threshold is not None]
    if at_cut and r.threshold is None and all(t.share.value is None for t in at_cut):
        blocks.append(Text("No cut-off was fixed, so there is nothing to say of a high-risk group."))
    elif at_cut:
        blocks.append(threshold_table(r.threshold, pooled, sites, labels))
    blocks += [
        *weighted_tables(pooled, sites, labels),
        *compared_tables(pooled, sites, labels),
        *subgroup_blocks(pooled, sites, labels),
    ]
    if series:
        blocks.append(
            Text(
                f"{', '.join(map(labels.site, series))}: a case-control series. How often the event is follows from "
                "how it was drawn: AUCs and their differences are told, and no rate, precision, calibration or "
                "threshold; it is pooled with nobody."
            )
        )
    ecg_level = [labels.site(s) for s, v in r.sites.items() if v.interval_unit == "ECG"]
    if ecg_level:
        blocks.append(
            Text(f"{', '.join(ecg_level)}: no patient identifiers; intervals are of ECGs, and none is of patients.")
        )
    if gone := {s: why for s, why in r.absent.items() if s not in r.sites}:
        words = (f"{labels.site(s)} ({in_words(why.values())})" for s, why in gone.items())
        blocks.append(Text(f"No answer: {', '.join(words)}."))
    return blocks


def _key(step: str, r: Result, group: Group, head: str, p: PooledHead, labels: Labels) -> Key:
    auc, bounds, notes = group_auc(r, head, p), p.auc, list[str]()
    what = "AUC"
    between = bounds.bound_low is not None and bounds.bound_high is not None and len(p.sites) > 1
    if auc.value is None and p.auc_within_sites is not None and p.auc_within_sites.value is not None:
        # Nothing was withheld: what the hospitals counted bounds it, and pairs within a hospital are known exactly.
        auc, what = p.auc_within_sites, "AUC of pairs within a hospital"
    if auc.low is not None and auc.high is not None:
        notes.append(f"95% CI {auc.low:.3f} to {auc.high:.3f} by {p.interval_unit}")
    if between:
        all_pairs = "over all pairs " if what != "AUC" else "bounds "
        notes.append(f"{all_pairs}{bounds.bound_low:.3f} to {bounds.bound_high:.3f}")
    if p.few_events and auc.value is not None:
        notes.append("few events: no interval")
    if p.events is not None:
        notes.append(f"{p.events:.0f} of {p.ecgs:.0f} ECGs with the event")
    if len(p.sites) == 1:
        notes.append(f"of {labels.site(p.sites[0])} alone")
    return Key(
        f"{what}, {labels.endpoint(head)}, {labels.group(group)}",
        auc.value,
        "; ".join(notes),
        labels.about(step, r.score),
    )


def _key_of_series(step: str, r: Result, site: str, head: str, v: SiteHead, labels: Labels) -> Key:
    notes = [f"95% CI {v.auc.low:.3f} to {v.auc.high:.3f}"] if v.auc.low is not None and v.auc.high is not None else []
    if v.events is not None and v.ecgs is not None:
        notes.append(f"{v.events:.0f} ECGs of cases, {v.ecgs - v.events:.0f} of controls")
    return Key(
        f"AUC, {labels.endpoint(head)}, {labels.site(site)}, case-control series",
        v.auc.value,
        "; ".join(notes),
        labels.about(step, r.score),
    )


def group_auc(r: Result, head: str, p: PooledHead) -> EstimateResult:
    """Return the AUC of a group: of one hospital alone its own, which needs no bounds."""
    return r.sites[p.sites[0]].heads[head].auc if len(p.sites) == 1 and p.sites[0] in r.sites else p.auc
