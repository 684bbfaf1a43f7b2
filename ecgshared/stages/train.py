"""train: any registered model, federated, with or without differential privacy; a checkpoint after every round.

``validation`` of round r speaks of the global weights after r rounds (0: the initial ones). ``judged`` names what its
losses are of: the heads, or the model's own figures, which have no AUC. ``model``, ``input``, ``seed`` and
``covariates`` (the rows of the array ``standardise``) let the weights be used without the study.

Here is what a study says of a training; :mod:`~ecgshared.stages.train_answers` has what hospitals answer,
:mod:`~ecgshared.stages.train_net` the net that it begins with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ecgshared.config import Config as BaseConfig
from ecgshared.learning.compression import Compression, restored, written_as, written_size
from ecgshared.learning.plan import MAINS_HZ, AugmentConfig, EarlyStopping, LocalWork, OptimiserConfig
from ecgshared.models import DEFAULT, BaseModelConfig, ModelConfig, config_class
from ecgshared.privacy.config import PrivacyConfig
from ecgshared.stages.results.train import Result as Result
from ecgshared.stages.train_answers import LATE_WEIGHTS as LATE_WEIGHTS
from ecgshared.stages.train_answers import SUMMED as SUMMED
from ecgshared.stages.train_answers import Update as Update
from ecgshared.stages.train_answers import Validation as Validation
from ecgshared.stages.train_answers import as_sums as as_sums
from ecgshared.stages.train_answers import of_sums as of_sums
from ecgshared.stages.train_answers import share_of as share_of
from ecgshared.study.endpoints import BinaryEndpoint, ContinuousEndpoint, Event
from ecgshared.study.score import trained_heads
from ecgshared.wire.protocol import Split, StepConfig

if TYPE_CHECKING:
    from ecgshared.study.study import Study


LEAVES = {
    "fit": "the model's weights after training at the hospital, and mean loss and AUC on its validation patients",
    "validate": "mean loss and AUC of the final weights on the hospital's validation patients",
}
"""What leaves a hospital in each phase, in words."""
PROTECTED = (
    "Losses and AUCs stand for groups of at least the hospital's own least size, or are withheld. Group sizes do not "
    "protect weights: a model can remember people it was trained on."
)
"""What stands between these numbers and one patient."""


class StrategyConfig(BaseConfig):
    """How the coordinator combines the sites' weights; every algorithm but the averaging itself is Flower's.

    ``fedprox`` needs ``local.prox_mu`` above 0; ``fedbn`` leaves normalisation layers at their sites.
    """

    name: Literal["fedavg", "fedprox", "fedadam", "fedbn", "fedmedian", "fedtrimmedavg", "krum"] = Field(
        default="fedavg", description="name of the strategy"
    )
    server_learning_rate: float = Field(default=0.01, gt=0, description="fedadam")
    beta_1: float = Field(default=0.9, ge=0, lt=1, description="fedadam")
    beta_2: float = Field(default=0.99, ge=0, lt=1, description="fedadam")
    tau: float = Field(default=1e-3, gt=0, description="fedadam")
    trim: float = Field(default=0.2, ge=0, lt=0.5, description="fedtrimmedavg: share cut from either end")
    malicious: int = Field(default=0, ge=0, description="krum: sites that may lie")


Trainable = Literal["all", "head", "last", "lora"]


class StartFrom(BaseConfig):
    """Weights that training begins with, instead of those drawn from the study's seed.

    ``step`` is an earlier train step of this study, or one imported from a file. Its net is taken over, but for the
    last layer where the steps have other heads, and for the one before it where they have other covariates.
    """

    step: str = Field(description="a train step named in `uses`, trained before or imported")
    trainable: Trainable = Field(
        default="all",
        description="what is trained on: all; the head alone, behind a frozen trunk; the head's last layer alone; "
        "lora: the last layer, and low-rank adapters of all other layers. What is frozen does not travel back",
    )
    rank: int = Field(default=1, ge=1, le=256, description="of lora's adapters: numbers that travel grow with it")


class Config(StepConfig):
    """A train step. ``uses`` must name a describe step: it gives the global counts N_h and the weights a_k."""

    can_be_frozen: ClassVar[bool] = True
    alike_for_any_members: ClassVar[bool] = True
    splits_read: ClassVar[tuple[Split, ...]] = ("train", "validation")
    read_later: ClassVar[tuple[str, ...]] = ("model", "heads", "precision", "on")

    model: ModelConfig = Field(default=config_class(DEFAULT)(), description="the net")  # type: ignore[call-arg]
    heads: tuple[str, ...] = Field(default=(), description="endpoints to predict; a cvae has none")
    on: tuple[Literal["train", "validation"], ...] = Field(
        default=("train",),
        min_length=1,
        description="patients it is trained on; [train, validation] before the lockbox opens, with rounds and rates "
        "that another step has chosen: then nothing is validated on them, and the lockbox alone judges",
        exclude_if=lambda splits: splits == ("train",),
    )
    head_weights: dict[str, float] = Field(default={}, description="w_h; 1 where not named")
    rounds: int = Field(default=20, ge=1, le=10_000, description="federated rounds")
    strategy: StrategyConfig = Field(default=StrategyConfig(), description="how the hospitals' updates become one")
    optimiser: OptimiserConfig = Field(default=OptimiserConfig(), description="how a hospital takes its steps")
    local: LocalWork = Field(default=LocalWork(), description="what a hospital does in one round")
    augment: AugmentConfig = Field(default=AugmentConfig(), description="how training ECGs are varied")
    precision: Literal["fp32", "fp64"] = Field(default="fp32", description="of the vector that travels")
    compress: Compression | None = Field(
        default=None,
        description="updates in fewer bytes, for slow lines: bf16 half of them, int8 a quarter; what is rounded off is "
        "sent with the next round's. Neither with privacy nor under masks",
        exclude_if=lambda kind: kind is None,
    )
    keep: Literal["last", "best"] = Field(
        default="last", description="best: the lowest pooled validation loss; the default with early_stopping"
    )
    early_stopping: EarlyStopping | None = Field(
        default=None, description="when to stop before the planned rounds; none where it is left out"
    )
    start_from: StartFrom | None = Field(
        default=None, description="weights to begin with; drawn from the study's seed where it is left out"
    )
    privacy: PrivacyConfig | None = Field(
        default=None, description="differential privacy of the training; none where it is left out"
    )

    @model_validator(mode="before")
    @classmethod
    def _best_is_kept(cls, data: Any) -> Any:
        return {"keep": "best", **data} if isinstance(data, dict) and data.get("early_stopping") is not None else data

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.on not in (("train",), ("train", "validation")):
            raise ValueError("on must be [train], or [train, validation]")
        if self.retrains and (self.early_stopping is not None or self.keep == "best"):
            raise ValueError(
                "trained on validation patients, nobody is left to choose a round: no early_stopping, no best"
            )
        if self.early_stopping is not None and self.keep != "best":
            raise ValueError("early_stopping keeps the best round's weights, so keep must be best")
        _check_start(self)
        if self.strategy.name == "fedprox" and self.local.prox_mu == 0:
            raise ValueError("strategy fedprox needs local.prox_mu above 0")
        _check_objective(self.model, self)
        unknown = set(self.head_weights) - set(self.heads)
        if unknown:
            raise ValueError(f"head_weights names {', '.join(sorted(unknown))}, which is no head of this step")
        if self.compress is not None and self.precision != "fp32":
            raise ValueError("compress writes fp32 in fewer bytes; leave precision out, or compress")
        if self.privacy is not None:
            if self.compress is not None:
                raise ValueError("privacy accounts for the update as it is noised; leave compress out")
            if self.local.steps is None:
                raise ValueError("privacy needs local.steps: the number of steps must not depend on a site's data")
            if self.model.mixes_patients:
                raise ValueError("privacy cannot use model.norm batch: it mixes patients; use group")
            if self.keep == "best":
                raise ValueError("privacy releases no validation figures: leave early_stopping out, keep must be last")
            if self.local.prox_mu or self.local.max_grad_norm:
                raise ValueError("privacy clips each patient itself; leave local.prox_mu and local.max_grad_norm out")
        return self

    @property
    def retrains(self) -> bool:
        """Whether validation patients are trained on, so that they can judge nothing any more."""
        return "validation" in self.on

    @property
    def totals(self) -> tuple[str, str]:
        """The arrays of a describe step that weigh heads and sites: of the patients that are trained on."""
        kind = "_train_validation" if self.retrains else ""
        return f"head_counts{kind}", f"site_weights{kind}"

    @property
    def event(self) -> Event | None:
        """The event whose time and status the model is trained with, or None."""
        return self.model.event

    @property
    def judged(self) -> tuple[str, ...]:
        """What validation figures are of: the heads, or the model's own figures."""
        return self.heads or self.model.figures

    @property
    def layout_mode(self) -> Literal["full", "fedbn"]:
        """What the flat vector holds."""
        return "fedbn" if self.strategy.name == "fedbn" else "full"


def _check_start(step: Config) -> None:
    start = step.start_from
    if start is None:
        return
    if start.step not in step.uses:
        raise ValueError(f"start_from.step {start.step!r} must be among `uses`")
    if start.trainable == "all":
        return
    if not step.model.head_parts:
        raise ValueError(f"a {step.model.name} has no head behind a trunk, so start_from.trainable must be all")
    if start.trainable == "lora" and step.privacy is not None:
        raise ValueError("adapters have no gradients per patient yet: with privacy, trainable is all, head or last")
    if step.model.mixes_patients or step.layout_mode == "fedbn":
        raise ValueError("a frozen trunk needs model.norm group and another strategy than fedbn")


def _check_objective(model: BaseModelConfig, step: Config) -> None:
    if model.own_objective and step.heads:
        raise ValueError(f"a {model.name} has no heads; leave heads out")
    if not model.own_objective and not step.heads:
        raise ValueError("heads must name at least one endpoint")
    if model.sees != "recording" and step.augment.any:
        raise ValueError(f"a {model.name} learns beats as they are; leave augment out")
    if model.event is not None and step.privacy is not None:
        raise ValueError("privacy cannot train model.survival: a risk set mixes patients")


def head_weight_vector(config: Config) -> NDArray[np.float64]:
    """Return w, shape = (H,), in the order of ``config.heads``."""
    return np.array([config.head_weights.get(head, 1.0) for head in config.heads])


def misfit(update: NDArray[Any], layout: str, wanted: str, step: Config, received: NDArray[Any]) -> str | None:
    """Say why an update cannot be aggregated with others to the weights ``received``, or None where it can."""
    kind, dtype, size = step.compress, received.dtype, len(received)
    if kind is not None:
        dtype, size = written_as(kind), written_size(kind, size)
    fits = layout == wanted and update.shape == (size,) and update.dtype == dtype
    if not fits:
        return "wrong-shape"
    return None if np.isfinite(weights_of(update, step, received)).all() else "not-finite"


def weights_of(update: NDArray[Any], step: Config, received: NDArray[Any]) -> NDArray[Any]:
    """Return a site's weights after its local training."""
    if step.compress is None:
        return update
    with np.errstate(invalid="ignore", over="ignore"):
        return received + restored(update, step.compress, len(received))


def describe_step(step: StepConfig, study: Study) -> str:
    """Return the id of the describe step this one uses; raise ValueError where it uses none."""
    described = study.used(step, "describe")
    if described is None:
        raise ValueError(f"step {step.id!r} must use a describe step: it gives the global counts of each head")
    return described.id


def judge_of(step: Config, study: Study) -> tuple[Config, int] | None:
    """Return the train step of the frozen net that a model is trained beside, and the number of its head."""
    if step.model.judge is None:
        return None
    name, head = step.model.judge.split(".", 1)
    trained = study.step(name)
    if not isinstance(trained, Config):
        raise TypeError("a train step's configuration was expected")
    return trained, trained.heads.index(head)


def _check_judge(step: Config, study: Study) -> None:
    judge = step.model.judge
    if judge is None:
        return
    known = trained_heads(step, study)
    if judge not in known:
        raise ValueError(
            f"step {step.id!r}: model.risk {judge!r} is no head of a train step it uses; "
            f"allowed: {', '.join(known) or '(it uses none)'}"
        )
    net = study.step(judge.partition(".")[0])
    if not isinstance(net, Config) or net.model.sees != step.model.sees or net.model.side_inputs:
        raise ValueError(f"step {step.id!r}: model.risk must be of a net that sees single beats, without covariates")
    if net.strategy.name == "fedbn":
        raise ValueError(f"step {step.id!r}: model.risk is of {net.id!r}, whose normalisation stays at its sites")


def _check_source(step: Config, study: Study) -> None:
    if step.start_from is None:
        return
    source = study.step(step.start_from.step)
    where = f"step {step.id!r}: start_from names {source.id!r}, "
    if not isinstance(source, Config):
        raise ValueError(f"{where}which is no train step")
    if source.model.name != step.model.name or source.precision != step.precision:
        raise ValueError(f"{where}a {source.model.name} in {source.precision}; both must be the same")
    if source.layout_mode == "fedbn":
        raise ValueError(f"{where}whose strategy fedbn leaves normalisation at its sites")


def check(step: StepConfig, study: Study) -> None:
    """Raise ValueError where a train step does not fit its study."""
    if not isinstance(step, Config):
        raise TypeError("a train step's configuration was expected")
    unknown = [head for head in step.heads if head not in study.endpoints]
    if unknown:
        raise ValueError(
            f"step {step.id!r}: {', '.join(unknown)} names no endpoint; allowed: {', '.join(study.endpoints)}"
        )
    lacking = [name for name in step.model.side_inputs if name not in ("age", "male", *study.covariates)]
    if lacking:
        raise ValueError(f"step {step.id!r}: the model needs {', '.join(lacking)}; add to the study's covariates")
    _check_judge(step, study)
    if step.augment.mains_mv and study.input.fs_hz <= 2 * min(MAINS_HZ):
        raise ValueError(
            f"step {step.id!r}: augment.mains_mv needs more than {2 * min(MAINS_HZ):g} samples a second; "
            f"input.fs_hz is {study.input.fs_hz:g}"
        )
    targets = [study.endpoints[head] for head in step.heads]
    columns = {e.column for e in targets if isinstance(e, BinaryEndpoint | ContinuousEndpoint)}
    for told in sorted(columns & set(step.model.side_inputs)):
        raise ValueError(
            f"step {step.id!r}: the label {told} is among model.covariates; the model would read its answer"
        )
    if step.frozen is not None:
        if step.layout_mode == "fedbn":
            raise ValueError(f"step {step.id!r}: fedbn leaves normalisation at its sites: nothing whole to import")
        return
    _check_source(step, study)
    outside = [site for site in study.members(step) if site not in study.sites.train]
    if outside:
        raise ValueError(f"step {step.id!r}: {', '.join(outside)} would train, but is no training site of the study")
    if study.secure_sum is not None and step.compress is not None:
        raise ValueError(f"step {step.id!r}: what is added under masks cannot be compressed; leave compress out")
    described = study.step(describe_step(step, study))
    if described.population != step.population:
        raise ValueError(
            f"step {step.id!r} trains on {step.population or 'everybody eligible'}, but {described.id!r} counts "
            f"{described.population or 'everybody eligible'}: the counts weigh the heads; name one population for both"
        )
