"""train, at the site: judge the weights received on validation patients, train on from them, answer with the result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.rows.allowance import spend
from client.rows.context import SiteContext
from client.rows.heads import admitted_heads
from client.rows.inputs import ModelRows, seen_by
from client.rows.model import SiteState, load_in_training, load_model
from ecgshared.errors import PrivacyError, RefusalCode, Refused
from ecgshared.learning.compression import with_feedback
from ecgshared.learning.loop import PlainStep, TrainStep, predict
from ecgshared.learning.loop import train as train_locally
from ecgshared.learning.losses import cell_losses, cell_weights, private_cell_weights
from ecgshared.learning.optimiser import load_optimiser_state, make_optimiser, optimiser_state
from ecgshared.learning.plan import learning_rate
from ecgshared.privacy.accounting import PrivacyPlan, epsilon_spent, plan_privacy
from ecgshared.privacy.dominance import carried, ranked
from ecgshared.privacy.patient_sgd import PrivateStep
from ecgshared.stages.train import (
    LATE_WEIGHTS,
    Config,
    Update,
    Validation,
    describe_step,
    head_weight_vector,
    judge_of,
    share_of,
)
from ecgshared.stats.roc import auc
from ecgshared.study.endpoints import ContinuousEndpoint
from ecgshared.wire.protocol import Answer, Evidence, Request, Split


def fit(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``fit`` of one round (1-based)."""
    config = _config(site)
    if not 1 <= request.round <= config.rounds:
        raise Refused(RefusalCode.BAD_REQUEST, "the study plans no such round", value=request.round)
    start = time.monotonic()
    inputs = _Inputs.of(site, config, request)
    _count_weights(site, request, f"fit {request.round}")
    _require_enough_at_a_step(site, config)
    model: Any
    model, layout = load_in_training(site, config, request)
    if config.model.own_objective:
        model.begin_round(request.round, config.rounds)
    _give_judge(site, config, model, request)
    judged = _no_figures(config) if config.privacy or config.retrains else _validate(site, config, model, inputs)
    rows = _rows(site, config, inputs, *config.on)
    state = SiteState(site, config)
    optimiser = make_optimiser(
        config.optimiser, model.parameters(), lr=learning_rate(config.optimiser, request.round, config.rounds)
    )
    if config.optimiser.between_rounds == "keep":
        kept = state.before("optimiser", request.round)
        if kept is not None:
            load_optimiser_state(optimiser, kept)
    plan = _privacy_plan(site, config, rows)
    if plan is not None and site.ledger is not None:
        site.ledger.charge(
            study=site.study.sha256,
            study_name=site.study.name,
            run=request.run,
            step=config.id,
            round=request.round,
            steps=config.local.steps or 0,
            plan=plan,
            cap=site.settings.privacy,
        )
    step = _step(site, config, inputs, rows, model, optimiser, plan)
    result = train_locally(
        model,
        rows,
        step,
        config.local,
        site.rng,
        augmentation=config.augment,
        fs_hz=site.data.fs_hz,
    )
    if config.optimiser.between_rounds == "keep":
        state.keep("optimiser", request.round, optimiser_state(optimiser))
    if layout.local:
        state.keep("normalisation", request.round, layout.local_state(model))
    # What a plain update speaks of is whom its steps saw; a private one's protection is its noise.
    trained = _patients(rows) if plan is not None else min(_patients(rows), result.least_patients)
    if plan is None and result.steps < _LEAST_STEPS and not site.settings.limits.withhold_nothing:
        trained = 0
    return Answer(
        Update(
            update=_written(layout.flatten(model).astype(inputs.weights.dtype), inputs.weights, config, state, request),
            layout=layout.hash,
            steps=result.steps,
            # How long it took depends on how many patients a step drew, and who they are.
            seconds=time.monotonic() - start if plan is None else 0.0,
            training_loss=result.mean_loss,
            validation_loss=judged.loss,
            validation_auc=judged.auc,
            noise_multiplier=0.0 if plan is None else plan.noise_multiplier,
            epsilon_spent=0.0 if plan is None else _spent(config, plan, request.round),
            delta=0.0 if plan is None else plan.delta,
        ),
        {
            "update": Evidence(np.array(trained)),
            "training_loss": Evidence(np.array(trained)),
            **judged.evidence,
        },
    )


def _written(
    weights: NDArray[Any], received: NDArray[Any], config: Config, state: SiteState, request: Request
) -> NDArray[Any]:
    """Return what is sent of the weights: they themselves, or the way they went in fewer bytes."""
    if config.compress is None:
        return weights
    kept = state.before("rounded_off", request.round)
    try:
        written, left = with_feedback(
            weights - received, None if kept is None else kept["left"].numpy(), config.compress
        )
    except ValueError as error:
        raise Refused(RefusalCode.GATE_CLOSED, f"the update cannot be compressed: {error}") from None
    state.keep("rounded_off", request.round, {"left": torch.from_numpy(left)})
    return written


def validate(site: SiteContext, request: Request) -> Answer:
    """Answer the phase ``validate``: figures of the weights received, nothing trained."""
    config = _config(site)
    if config.retrains:
        raise Refused(RefusalCode.BAD_REQUEST, "validation patients are trained on, and judge nothing", value=config.id)
    inputs = _Inputs.of(site, config, request)
    if config.privacy is None and site.settings.privacy.required:
        raise Refused(
            RefusalCode.PRIVACY_REQUIRED, "this site trains privately only: no figure of plain training leaves"
        )
    _count_weights(site, request, "validate")
    judged = (
        _no_figures(config)
        if config.privacy
        else _validate(site, config, load_in_training(site, config, request)[0], inputs)
    )
    return Answer(Validation(judged.loss, judged.auc), judged.evidence)


PHASES = {"fit": fit, "validate": validate}

RUNS = 5
"""Different weights that a round, or the end, of one study's step is answered for: so many runs of it."""
_LEAST_STEPS = 2


def _count_weights(site: SiteContext, request: Request, topic: str) -> None:
    """Validation figures of weights are answers about them: weights made up by who asks are counted as others are."""
    if not site.settings.limits.withhold_nothing:
        spend(site, request, f"weights of {topic}", cap=RUNS, of=["weights"])


def _require_enough_at_a_step(site: SiteContext, config: Config) -> None:
    """Refuse plain training whose steps see too few ECGs, or that takes a single one: a gradient can be undone."""
    limits, work = site.settings.limits, config.local
    if config.privacy is not None or limits.withhold_nothing:
        return
    if work.batch_size is not None and work.batch_size < limits.min_patients:
        raise Refused(
            RefusalCode.TOO_FEW,
            "a step of plain training would be of fewer patients than a group may be",
            where=f"{config.id}.local.batch_size",
            value=work.batch_size,
            allowed=f"at least {limits.min_patients}",
        )
    alone = work.steps == 1 if work.steps is not None else work.batch_size is None and (work.epochs or 1) < _LEAST_STEPS
    if alone:
        raise Refused(
            RefusalCode.TOO_FEW,
            "a single step of plain training hands over the gradient itself",
            where=f"{config.id}.local",
            allowed=f"at least {_LEAST_STEPS} steps in a round",
        )


def _give_judge(site: SiteContext, config: Config, model: Any, request: Request) -> None:
    """Hand a model the frozen net it is trained beside, with the weights its own step ended with."""
    judge = judge_of(config, site.study)
    if judge is None:
        return
    trained, head = judge
    if f"{trained.id}.weights" not in request.arrays:
        raise Refused(RefusalCode.BAD_REQUEST, "the request lacks the weights of the net behind model.risk")
    model.take_judge(load_model(site, trained, request.arrays[f"{trained.id}.weights"]), head)


def _privacy_plan(site: SiteContext, config: Config, rows: ModelRows) -> PrivacyPlan | None:
    """Solve the noise over all planned rounds; None where the study asks for none and the site does not insist."""
    cap = site.settings.privacy
    if config.privacy is None:
        if cap.required:
            raise Refused(RefusalCode.PRIVACY_REQUIRED, "this site trains with differential privacy only")
        return None
    if not site.data.patients_known:
        raise Refused(RefusalCode.PRIVACY_REQUIRED, "without patient ids privacy per patient cannot be promised")
    try:
        return plan_privacy(
            config.privacy,
            patients=_patients(rows),
            steps_total=(config.local.steps or 0) * config.rounds,
            max_epsilon=cap.max_epsilon,
            max_delta=cap.max_delta,
        )
    except PrivacyError as error:
        raise Refused(RefusalCode.PRIVACY_REQUIRED, error.what) from error


def _step(
    site: SiteContext,
    config: Config,
    inputs: _Inputs,
    rows: ModelRows,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    plan: PrivacyPlan | None,
) -> TrainStep:
    w = head_weight_vector(config)
    if plan is not None:
        private = private_cell_weights(w, inputs.head_counts) if config.heads else np.ones(1)
        return PrivateStep(model, optimiser, private, plan=plan, work=config.local)
    # Without heads every ECG counts alike: a_k N is the site's own number of training ECGs.
    own = np.array([1 / max(len(site.data.rows(*config.on)), 1)])
    return PlainStep(
        model,
        optimiser,
        cell_weights(w, inputs.head_counts, aggregation_weight=inputs.aggregation_weight) if config.heads else own,
        site_items=len(rows),
        work=config.local,
        bf16=site.settings.compute.precision == "bf16",
    )


def _spent(config: Config, plan: PrivacyPlan, round_number: int) -> float:
    """Epsilon of all rounds up to this one together, never of one round alone."""
    steps = (config.local.steps or 0) * round_number
    return epsilon_spent([plan.spent(steps)], delta=plan.delta, accountant=plan.accountant)


@dataclass(frozen=True)
class _Inputs:
    """What the message brings: the weights, and describe's totals."""

    weights: NDArray[Any]
    head_counts: NDArray[np.float64]
    aggregation_weight: float
    standardise: NDArray[np.float64]

    @classmethod
    def of(cls, site: SiteContext, config: Config, request: Request) -> _Inputs:
        described = describe_step(config, site.study)
        try:
            counts, shares = (request.arrays[f"{described}.{name}"] for name in config.totals)
            standardise = request.arrays[f"{described}.standardise"]
            weights = request.arrays["weights"]
        except KeyError as error:
            raise Refused(RefusalCode.BAD_REQUEST, f"the request lacks {error}") from None
        heads = list(site.study.endpoints)
        if (
            counts.shape != (len(heads),)
            or shares.shape != (len(site.study.sites.train),)
            or standardise.shape != (2 + len(site.study.covariates), 2)
        ):
            raise Refused(RefusalCode.BAD_REQUEST, "totals of another shape than the study's")
        late = request.arrays.get(LATE_WEIGHTS)
        if late is not None and late.shape != shares.shape:
            raise Refused(RefusalCode.BAD_REQUEST, "shares of latecomers of another shape than the study's")
        share = share_of(request.arrays, config, site.study, site.settings.site)
        if not 0 < share < np.inf:
            raise Refused(RefusalCode.TOO_FEW, "this site's share of the training ECGs is withheld")
        return cls(weights, counts[[heads.index(h) for h in config.heads]], share, standardise)


@dataclass(frozen=True)
class _Judged:
    """Validation figures of each head, and the groups behind them."""

    loss: NDArray[np.float64]
    auc: NDArray[np.float64]
    evidence: dict[str, Evidence]


def _no_figures(config: Config) -> _Judged:
    withheld = np.full(len(config.judged), np.nan)
    nobody = Evidence(np.zeros(len(config.judged), dtype=int))
    return _Judged(withheld, withheld.copy(), {"validation_loss": nobody, "validation_auc": nobody})


def _validate(site: SiteContext, config: Config, model: nn.Module, inputs: _Inputs) -> _Judged:
    """Mean loss and AUC of each head over the site's validation ECGs, or the model's own figures."""
    endpoints = site.study.endpoints
    rows = _rows(site, config, inputs, "validation")
    admitted = admitted_heads(site, config.id, config.heads, rows.of_data)
    if config.model.own_objective:
        return _figures(config, model, rows)
    logits = predict(model, rows, np.arange(len(rows)))
    numbers = [isinstance(endpoints[head], ContinuousEndpoint) for head in config.heads]
    losses = cell_losses(torch.from_numpy(logits), torch.from_numpy(rows.labels.astype(np.float64)), numbers).numpy()
    n_heads = len(config.heads)
    limits = site.settings.limits
    loss, area = np.full(n_heads, np.nan), np.full(n_heads, np.nan)
    patients, events = np.zeros(n_heads, dtype=int), np.zeros(n_heads, dtype=int)
    for h in range(n_heads):
        y = rows.labels[:, h]
        known, cases, controls = (np.flatnonzero(m) for m in (~np.isnan(y), y == 1, y == 0))
        patients[h] = len(np.unique(rows.patient[known]))
        if admitted[h]:
            events[h] = min(len(np.unique(rows.patient[cases])), len(np.unique(rows.patient[controls])))
        else:
            patients[h] = 0
        # Beside the loss itself, the score: one that sets a single person apart makes the mean that person's label.
        if len(known) and all(carried(v[known, h], rows.patient[known], limits) for v in (losses, logits)):
            loss[h] = losses[known, h].mean()
        if numbers[h]:
            events[h] = patients[h]
        elif len(cases) and len(controls) and carried(ranked(logits[known, h]), rows.patient[known], limits):
            area[h] = auc(logits[known, h], y[known])
    group = Evidence(patients, events)
    return _Judged(loss, area, {"validation_loss": group, "validation_auc": group})


def _figures(config: Config, model: Any, rows: ModelRows) -> _Judged:
    if not len(rows):
        return _no_figures(config)
    means = predict(model, rows, np.arange(len(rows)), output=model.judged).mean(axis=0)
    patients = Evidence(np.full(len(means), _patients(rows)))
    return _Judged(means, np.full(len(means), np.nan), {"validation_loss": patients, "validation_auc": patients})


def _config(site: SiteContext) -> Config:
    if not isinstance(site.step, Config):
        raise TypeError("a train step's configuration was expected")
    return site.step


def _rows(site: SiteContext, config: Config, inputs: _Inputs, *splits: Split) -> ModelRows:
    """The splits' ECGs that have a label for at least one of the step's heads, if it has any, and what the model sees.

    Under privacy all of them: the sampling rate must follow from the number of patients that `describe` released. One
    without a beat is NaN there, and a private step adds nothing for it.
    """
    columns = [site.data.heads.index(head) for head in config.heads]
    rows = site.data.rows(*splits)
    seen = seen_by(config.model, site.data, site.rng if "train" in splits else None)
    if config.privacy is None:
        if config.heads:
            rows = rows[~np.isnan(site.data.labels[rows][:, columns]).all(axis=1)]
        rows = rows[seen.known(rows)]
    return ModelRows(
        site.data,
        rows,
        covariates=config.model.side_inputs,
        standardise=inputs.standardise,
        heads=config.heads,
        numbers={h: e for h in config.heads if isinstance(e := site.study.endpoints[h], ContinuousEndpoint)},
        signals=seen,
        event=config.event,
    )


def _patients(rows: ModelRows) -> int:
    return len(np.unique(rows.patient))
