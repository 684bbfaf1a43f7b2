"""How a training is shown: learning curves, settings, who was left out, and what epsilon covers."""

from __future__ import annotations

from collections.abc import Sequence

from ecgshared.learning.plan import LocalWork, OptimiserConfig
from ecgshared.stages.results.base import Number
from ecgshared.stages.results.train import PrivacyResult, Result
from server.report.augmentation import augmentation_panels
from server.report.labels import Labels, counted
from server.report.sections import Block, Cell, Figure, Key, Section, Series, Table, Text


def training_sections(step: str, r: Result, labels: Labels) -> list[Section]:
    """Return one section."""
    blocks: list[Block] = [*_curves(r, labels), _settings(r, labels), *augmentation_panels(r), *_left_out(r, labels)]
    if r.privacy is not None:
        blocks += _privacy(step, r.privacy, labels)
    return [Section(f"{labels.step(step)}: training", blocks)]


def _curves(r: Result, labels: Labels) -> list[Figure]:
    figures = []
    # A round that nobody may judge is a gap, not a line between its neighbours.
    losses = [(v.round, v.loss) for v in r.validation]
    if any(loss is not None for _, loss in losses):
        kept = [(n, loss) for n, loss in losses if n == r.kept_round and loss is not None]
        y_range = _from_the_first_round_on(losses)
        untrained = f" That of the untrained net, {losses[0][1]:.3f}, lies above the drawing." if y_range else ""
        figures.append(
            Figure(
                "Validation loss of the global model" if r.heads else "Validation of the global model",
                [
                    Series("pooled over sites", [n for n, _ in losses], [loss for _, loss in losses]),
                    *(Series(f"kept: round {n}, {loss:.3f}", [n], [loss], style="points") for n, loss in kept),
                ],
                "round",
                "mean loss" if r.heads else ", ".join(r.judged),
                y_range=y_range,
                caption=_ending(r) + untrained + _unjudged(r),
            )
        )
    aucs = []
    for head in r.heads:
        told = [(v.round, v.auc.get(head)) for v in r.validation]
        if any(auc is not None for _, auc in told):
            aucs.append(Series(labels.endpoint(head), [n for n, _ in told], [auc for _, auc in told]))
    if aucs:
        figures.append(
            Figure(
                "Validation AUC of the global model",
                aucs,
                "round",
                "AUC",
                caption="The sites' own AUCs, averaged with their aggregation weights.",
            )
        )
    return figures


def _from_the_first_round_on(losses: Sequence[tuple[int, Number]]) -> tuple[float, float] | None:
    """Return a range of losses without that of the untrained net, beside which an overfit would not be seen."""
    first = next((loss for n, loss in losses if n == 0 and loss is not None), None)
    later = [loss for n, loss in losses if n > 0 and loss is not None]
    if first is None or len(later) < 2 or first <= max(later):
        return None
    air = 0.05 * (max(later) - min(later)) or 0.05 * max(later)
    return min(later) - air, max(later) + air


def _ending(r: Result) -> str:
    """Say which weights were kept, and why training ended."""
    kept = f"The weights of round {r.kept_round} were kept"
    if r.stopped_early:
        return f"{kept}; training ended after {r.rounds} of {r.planned_rounds} rounds, as validation did not improve."
    return f"{kept}, of {counted(r.rounds, 'round')}."


def _unjudged(r: Result) -> str:
    """Say which rounds have no loss, and that they neither kept weights nor ended the training."""
    silent = sum(v.loss is None for v in r.validation)
    if not silent:
        return ""
    return (
        f" The loss of {counted(silent, 'round')} is withheld (a few patients would carry it, or too few tell it): a "
        "gap here, and no part of the choice."
    )


def _settings(r: Result, labels: Labels) -> Table:
    trained = "" if r.trained_parameters in (None, r.parameters) else f", {r.trained_parameters:,} of them trained"
    began: list[list[Cell]] = [["weights began as those of", labels.step(r.started_from)]] if r.started_from else []
    rows: list[list[Cell]] = [
        ["heads", "; ".join(map(labels.endpoint, r.heads)) or "(none)"],
        *began,
        ["parameters", f"{r.parameters:,}{trained}"],
        ["rounds", f"{r.rounds} of {r.planned_rounds}; stopped early" if r.stopped_early else r.rounds],
        ["weights kept of round", r.kept_round],
        ["strategy", r.strategy],
        ["local work a round", _work(r.local)],
        ["local optimiser", _optimiser(r.optimiser)],
    ]
    return Table("Settings", ["setting", "value"], rows)


def _left_out(r: Result, labels: Labels) -> list[Table]:
    rows: list[list[Cell]] = [
        [labels.site(site), reason, rounds] for site, reasons in r.absent.items() for reason, rounds in reasons.items()
    ]
    rows += [
        [labels.site(site), "withheld its number of training ECGs: too few to train", r.rounds]
        for site in r.withheld_sites
    ]
    return [Table("Hospitals left out", ["hospital", "reason", "rounds"], rows)] if rows else []


def _privacy(step: str, p: PrivacyResult, labels: Labels) -> list[Block]:
    rows: list[list[Cell]] = [
        [labels.site(site), a.noise_multiplier, a.epsilon_spent, a.delta] for site, a in p.sites.items()
    ]
    return [
        Key(
            "Differential privacy of the training",
            f"epsilon {p.epsilon:g}",
            f"delta {p.delta:g}, per patient",
            labels.about(step),
        ),
        Text(f"Covered: {p.covers} Not covered: {p.does_not_cover}"),
        Table(
            "Privacy accounts",
            ["site", "noise multiplier", "epsilon spent", "delta"],
            rows,
            note="A site's own cap on epsilon and delta holds where it is stricter than the study's.",
        ),
    ]


def _work(local: LocalWork) -> str:
    amount = counted(local.steps, "step") if local.steps is not None else counted(local.epochs or 1, "epoch")
    prox = f", proximal mu {local.prox_mu:g}" if local.prox_mu else ""
    return f"batches of {local.batch_size or 'all'}, {amount}{prox}"


def _optimiser(optimiser: OptimiserConfig) -> str:
    kept = (
        "its state starts anew every round" if optimiser.between_rounds == "reset" else "its state is kept at the site"
    )
    return f"{optimiser.name}, learning rate {optimiser.lr:g} ({optimiser.schedule.kind} over rounds), {kept}"
