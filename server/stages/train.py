"""train, at the coordinator: initial weights from the study's seed, rounds, aggregation, a checkpoint after each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ecgshared.errors import ModelError, RefusalCode, RunError, TooFewError
from ecgshared.learning.plan import EarlyStopping, learning_rate
from ecgshared.stages.results.train import PrivacyAccount, PrivacyResult, TrainingRound, ValidationRound
from ecgshared.stages.train import Config, Result, describe_step, misfit, weights_of
from ecgshared.stages.train_net import StartingPoint, starting_point
from ecgshared.study.amendment import LEFT
from ecgshared.study.secure import TOGETHER
from ecgshared.study.study import Study
from ecgshared.wire.checkpoint import load_checkpoint, save_checkpoint
from ecgshared.wire.protocol import StepConfig
from server.pooling.combine import number as finite
from server.pooling.latecomers import Latecomers
from server.pooling.weights import Aggregator
from server.report.labels import NO_LABELS, Labels
from server.report.sections import Section
from server.report.training import training_sections
from server.rounds.step_context import Artefact, Replies, StepContext

CHECKPOINT = "checkpoint.bin"


@dataclass
class _State:
    """What a checkpoint holds."""

    weights: NDArray[Any]
    round: int = 0
    best: NDArray[Any] | None = None
    best_round: int = 0
    best_loss: float = math.inf
    stopped: bool = False
    strategy: dict[str, NDArray[Any]] = field(default_factory=dict)
    validation: list[ValidationRound] = field(default_factory=list)
    training: list[TrainingRound] = field(default_factory=list)
    absent: dict[str, dict[str, int]] = field(default_factory=dict)
    privacy: dict[str, PrivacyAccount] = field(default_factory=dict)
    late: dict[str, float] = field(default_factory=dict)


def run(step: StepConfig, context: StepContext) -> Artefact[Result]:
    """Train for the planned rounds, from the last checkpoint where there is one."""
    if not isinstance(step, Config):
        raise TypeError("a train step's configuration was expected")
    study = context.study
    described = context.inputs[describe_step(step, study)]
    weights = _aggregation_weights(described, step, study, context.sites)
    start = _start(step, context)
    layout_hash, initial = start.layout.hash, start.layout.flatten(start.model)
    aggregator = Aggregator(step.strategy)
    state = _resumed(context, initial)
    aggregator.restore(state.strategy)
    # What sites add under masks comes as the answer of one that has the whole weight.
    weights[TOGETHER] = 1.0
    late = Latecomers(step, context, described, state.late)
    for number in range(state.round + 1, step.rounds + 1):
        if state.stopped:
            break
        context.progress(number - 1, step.rounds, f"round {number}")
        late.look(number)
        weights.update(state.late)
        able = tuple(site for site in context.sites if weights[site] > 0)
        replies = context.ask(
            "fit",
            round=number,
            arrays={"weights": state.weights, **late.arrays()},
            sites=able,
            accept=lambda reply: misfit(reply.update, reply.layout, layout_hash, step, initial),
            metrics=lambda by_site: _round_metrics(step, by_site, weights),
        )
        if not replies.by_site:
            only_small = set(replies.absent.values()) == {RefusalCode.TOO_FEW}
            raise (TooFewError if only_small else RunError)(
                f"step {step.id!r}, round {number}: no hospital trained",
                value="; ".join(f"{site}: {why}" for site, why in sorted(replies.absent.items())),
                remedy="larger batches or more steps a round, or larger hospitals; their own logs say which",
            )
        _note_round(state, step, study, number, replies, weights, late.absences())
        if _is_enough(state, step.early_stopping):
            # What the sites did in this round is thrown away: the round before it was judged no better.
            state.stopped = True
            _save(context, state)
            break
        state.weights = aggregator.aggregate(
            number,
            state.weights,
            {site: weights_of(reply.update, step, state.weights) for site, reply in replies.by_site.items()},
            weights,
        )
        state.round, state.strategy = number, aggregator.state
        _save(context, state)
    weights.update(state.late)
    able = tuple(site for site in context.sites if weights[site] > 0)
    if not state.stopped and not step.retrains:
        arrays = {"weights": state.weights, **late.arrays()}
        final = context.ask("validate", round=step.rounds, arrays=arrays, sites=able)
        _note_validation(state, step, step.rounds, final.by_site, weights, state.weights)
    best = _keeps_best(step, state, context)
    kept = state.best if best and state.best is not None else state.weights
    context.progress(step.rounds, step.rounds, "trained")
    result = Result(
        heads=step.heads,
        judged=step.judged,
        sites=study.first_members(step),
        withheld_sites=tuple(site for site in context.sites if site not in able and site in described.result.sites),
        rounds=state.round,
        planned_rounds=step.rounds,
        stopped_early=state.stopped,
        started_from=None if step.start_from is None else step.start_from.step,
        parameters=start.parameters,
        trained_parameters=start.trained,
        layout=layout_hash,
        kept_round=state.best_round if best else state.round,
        strategy=step.strategy.name,
        model=step.model,
        input=study.input,
        seed=study.seed,
        covariates=("age", "male", *study.covariates),
        local=step.local,
        optimiser=step.optimiser,
        augment=step.augment,
        learning_rate=tuple(learning_rate(step.optimiser, r, step.rounds) for r in range(1, state.round + 1)),
        validation=tuple(state.validation),
        training_loss=tuple(state.training),
        absent=state.absent,
        privacy=_privacy_result(step, study, state),
    )
    standardise = described.arrays["standardise"]
    whole = start.whole(kept)
    return Artefact(step.id, "train", result, {"weights": whole, "standardise": standardise})


def report(artefact: Artefact[Result], labels: Labels = NO_LABELS) -> list[Section]:
    """Learning curves, settings, who was absent, and what epsilon covers."""
    return training_sections(artefact.step, artefact.result, labels)


def _start(step: Config, context: StepContext) -> StartingPoint:
    arrays = {f"{name}.{key}": a for name, used in context.inputs.items() for key, a in used.arrays.items()}
    try:
        return starting_point(step, context.study, arrays)
    except ModelError as error:
        raise RunError(f"step {step.id!r}: {error}") from error


def _keeps_best(step: Config, state: _State, context: StepContext) -> bool:
    """Whether the best judged round is kept: not where the last one could not be judged, for a round that nobody may
    compare later ones with (the untrained net, at worst) is the best of nothing."""
    if step.keep != "best" or state.best is None:
        return False
    if state.validation and state.validation[-1].loss is None:
        context.note("validation withheld", "the last round could not be judged; its weights are kept, not the best's")
        return False
    return True


def _is_enough(state: _State, rule: EarlyStopping | None) -> bool:
    """Whether so many rounds in a row were judged no better; one that nobody may judge counts for nothing."""
    if rule is None:
        return False
    judged = [line.round for line in state.validation if line.loss is not None]
    later = sum(number > state.best_round for number in judged)
    return later >= rule.patience and judged[-1] >= rule.min_rounds


def _aggregation_weights(
    described: Artefact[Any], step: Config, study: Study, sites: tuple[str, ...]
) -> dict[str, float]:
    shares = dict(zip(study.sites.train, described.arrays[step.totals[1]].tolist(), strict=True))
    away = {site: why for site, why in described.result.absent.items() if site in sites}
    if away and set(away) == set(sites):
        raise RunError(
            f"step {step.id!r}: no training site answered step {described.step!r}",
            value="; ".join(f"{site}: {why}" for site, why in sorted(away.items())),
            remedy="start the run anew once they are connected",
        )
    if not any(shares[site] > 0 for site in sites):
        if away:
            raise RunError(
                f"step {step.id!r}: nobody who answered step {described.step!r} may release how many ECGs it trains on",
                value="; ".join(f"{site}: {why}" for site, why in sorted(away.items())),
                remedy="start the run anew once those that were away are connected, or lower the sites' limits",
            )
        raise TooFewError(
            "no training site may release how many ECGs it trains on",
            remedy="lower the sites' limits, or join larger sites",
        )
    return {site: shares[site] for site in sites}


def _resumed(context: StepContext, initial: NDArray[Any]) -> _State:
    found = load_checkpoint(context.folder / CHECKPOINT, lambda what: context.note("checkpoint damaged", what))
    if found is None:
        return _State(weights=initial)
    header, arrays = found
    strategy = {name.removeprefix("strategy."): a for name, a in arrays.items() if name.startswith("strategy.")}
    if header["best_loss"] is None:
        header["best_loss"] = math.inf
    header["validation"] = [ValidationRound.model_validate(line) for line in header["validation"]]
    header["training"] = [TrainingRound.model_validate(line) for line in header["training"]]
    header["privacy"] = {site: PrivacyAccount.model_validate(spent) for site, spent in header["privacy"].items()}
    return _State(weights=arrays["weights"], best=arrays.get("best"), strategy=strategy, **header)


def _save(context: StepContext, state: _State) -> None:
    arrays = {"weights": state.weights, **{f"strategy.{name}": a for name, a in state.strategy.items()}}
    if state.best is not None:
        arrays["best"] = state.best
    header = {
        "round": state.round,
        "best_round": state.best_round,
        "best_loss": None if math.isinf(state.best_loss) else state.best_loss,
        "stopped": state.stopped,
        "validation": [line.model_dump() for line in state.validation],
        "training": [line.model_dump() for line in state.training],
        "absent": state.absent,
        "late": state.late,
        "privacy": {site: spent.model_dump() for site, spent in state.privacy.items()},
    }
    save_checkpoint(context.folder / CHECKPOINT, header, arrays)


def _note_round(
    state: _State,
    step: Config,
    study: Study,
    number: int,
    replies: Replies,
    weights: Mapping[str, float],
    away: Mapping[str, str],
) -> None:
    _note_validation(state, step, number - 1, replies.by_site, weights, state.weights)
    losses = {site: finite(reply.training_loss) for site, reply in replies.by_site.items()}
    state.training.append(TrainingRound(round=number, loss=_mean(losses, weights), sites=losses))
    left = {site: LEFT for site in study.first_members(step) if site in study.gone}
    for site, reason in {**replies.absent, **away, **left}.items():
        reasons = state.absent.setdefault(site, {})
        reasons[str(reason)] = reasons.get(str(reason), 0) + 1
    if step.privacy is not None:
        told = replies.told or {site: vars(reply) for site, reply in replies.by_site.items()}
        for site, said in told.items():
            state.privacy[site] = PrivacyAccount(
                noise_multiplier=float(said["noise_multiplier"]),
                epsilon_spent=float(said["epsilon_spent"]),
                delta=float(said["delta"]),
            )


def _round_metrics(step: Config, replies: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, float | None]:
    """Figures of one round for the history: validation speaks of the weights the round began with."""
    loss, aucs = _pooled_validation(step, replies, weights)
    training = _mean({site: finite(reply.training_loss) for site, reply in replies.items()}, weights)
    return {"train_loss": training, "validation_loss": loss, **{f"auc/{head}": a for head, a in aucs.items()}}


def _pooled_validation(
    step: Config, replies: Mapping[str, Any], weights: Mapping[str, float]
) -> tuple[float | None, dict[str, float | None]]:
    """Mean over heads of the loss, and each head's AUC: the sites' own, averaged with their weights."""
    aucs, losses = {}, []
    for h, name in enumerate(step.judged):
        if name in step.heads:
            aucs[name] = _mean({site: finite(reply.validation_auc[h]) for site, reply in replies.items()}, weights)
        losses.append(_mean({site: finite(reply.validation_loss[h]) for site, reply in replies.items()}, weights))
    known = [loss for loss in losses if loss is not None]
    return (sum(known) / len(known) if known else None), aucs


def _note_validation(
    state: _State,
    step: Config,
    round_number: int,
    replies: Mapping[str, Any],
    weights: Mapping[str, float],
    vector: NDArray[Any],
) -> None:
    loss, aucs = _pooled_validation(step, replies, weights)
    by_site = {
        site: [finite(v) for v in (reply.validation_auc if step.heads else reply.validation_loss)]
        for site, reply in replies.items()
    }
    state.validation.append(
        ValidationRound(
            round=round_number,
            loss=loss,
            auc=aucs,
            sites={site: dict(zip(step.judged, values, strict=True)) for site, values in by_site.items()},
        )
    )
    least = 0.0 if step.early_stopping is None else step.early_stopping.min_gain
    if loss is not None and loss < state.best_loss - (least if math.isfinite(state.best_loss) else 0.0):
        state.best, state.best_round, state.best_loss = vector.copy(), round_number, loss


def _mean(values: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    known = [(v, weights[site]) for site, v in values.items() if v is not None]
    total = sum(w for _, w in known)
    return sum(v * w for v, w in known) / total if total > 0 else None


def _privacy_result(step: Config, study: Study, state: _State) -> PrivacyResult | None:
    if step.privacy is None:
        return None
    return PrivacyResult(
        **step.privacy.model_dump(),
        sites=state.privacy,
        covers=(
            "what the weights of all rounds of this step can tell about any one patient of a training site, "
            "whoever sees them."
        ),
        does_not_cover=_not_covered(step, study),
    )


def _not_covered(step: Config, study: Study) -> str:
    """Name every other step of the study: each releases something that this epsilon says nothing of."""
    weights = [s.id for s in study.steps if s.stage == "train" and s.id != step.id]
    others = [f"{s.id} ({s.stage})" for s in study.steps if s.stage != "train"]
    parts = [f"the weights of {', '.join(weights)}, trained apart"] if weights else []
    if others:
        parts.append(f"the numbers of {', '.join(others)}, which are protected by minimum group sizes only")
    return "; ".join([*parts, "the number of training patients, which is taken as public"]) + "."
