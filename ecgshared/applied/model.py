"""A model file applied to one ECG: logits, calibrated risk, numbers in their unit, intervals, place in the population.

The arithmetic is that of the sites: the net in its own precision, coefficients on its logit in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.special import expit, ndtri

from ecgshared.applied.file import ModelFile
from ecgshared.arrays import Floats
from ecgshared.ecg.input import InputConfig
from ecgshared.errors import ConfigError
from ecgshared.models import HeadSpec, build
from ecgshared.stages.results.train import Result as Trained
from ecgshared.study.endpoints import ContinuousEndpoint, Endpoint, TimeToEventEndpoint

NOT_FOR_CARE = (
    "Research software. Not a medical device: no diagnosis, treatment or triage may rest on it. An interval says what "
    "is uncertain in the model, not in the patient."
)
_ENDPOINT: TypeAdapter[Endpoint] = TypeAdapter(Endpoint)


@dataclass(frozen=True)
class Output:
    """One thing a model tells of an ECG.

    Attributes
    ----------
    kind : a calibrated risk, the uncalibrated probability of a head, or a number in ``unit``.
    value : NaN where an input is not known; ``lacks`` names it.
    low, high : the interval, of what ``interval`` says; NaN where there is none, and ``interval`` says why.
    percentile : least and largest share of the population with a lower value, percent; None where it is not released.
    above : whether it lies in the high-risk group of the study's cut-off; None without one.
    """

    name: str
    label: str
    kind: Literal["risk", "probability", "number"]
    value: float
    unit: str = ""
    low: float = math.nan
    high: float = math.nan
    interval: str = ""
    percentile: tuple[float, float] | None = None
    above: bool | None = None
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Net:
    """One trained net of a model, and what it is given beside the signal."""

    module: Any
    trained: Trained
    standardise: NDArray[Any]

    def beside(self, known: Mapping[str, float]) -> Floats:
        """Return the standardised covariates, shape = (1, C), NaN where not known."""
        rows = {name: i for i, name in enumerate(self.trained.covariates)}
        given = [
            (known.get(name, math.nan) - self.standardise[rows[name], 0]) / self.standardise[rows[name], 1]
            for name in self.trained.model.side_inputs
        ]
        return np.array([given], dtype=np.float64)

    def outputs(self, signal: NDArray[np.float32], known: Mapping[str, float]) -> Floats:
        """Return what each head says, shape = (H,)."""
        import torch

        first = next(self.module.parameters())
        with torch.no_grad():
            x = torch.as_tensor(np.ascontiguousarray(signal[np.newaxis])).to(first.dtype)
            told = self.module(x, torch.as_tensor(self.beside(known)).to(first.dtype))
        return np.asarray(told.double().numpy()[0], dtype=np.float64)

    def shares(self, signal: NDArray[np.float32], known: Mapping[str, float], head: int) -> Floats:
        """Return each sample's share in what a head says, shape = (12, samples), by integrated gradients."""
        import torch

        from ecgshared.learning.attribution import attribution

        first = next(self.module.parameters())
        beside = torch.as_tensor(self.beside(known)).to(first.dtype)
        x = torch.as_tensor(np.ascontiguousarray(signal[np.newaxis])).to(first.dtype)
        # Normalisation bends the way from a flat ECG sharply at its beginning: it takes more points than a plain net.
        found = attribution(lambda at: self.module(at, beside)[:, head], x, "integrated_gradients", steps=128)
        return np.asarray(found[0].double().numpy(), dtype=np.float64)


class AppliedModel:
    """A model ready for use.

    Raises
    ------
    ConfigError : the file holds no net with heads, or lacks the steps it rests on (an older version wrote it).
    """

    def __init__(self, file: ModelFile, where: object) -> None:
        self.told = file.told
        self.endpoints = {name: _ENDPOINT.validate_python(e) for name, e in file.told.get("endpoints", {}).items()}
        self.nets: dict[str, _Net] = {}
        own = {file.told["step"]: {key: file.told[key] for key in ("stage", "config", "result")}}
        arrays = {file.told["step"]: file.arrays, **file.parts}
        steps = {**file.told.get("parts", {}), **own}
        for step, part in steps.items():
            if part["stage"] == "train" and part["result"]["heads"]:
                self.nets[step] = self._net(part["result"], part["config"], arrays[step])
        if not self.nets:
            raise ConfigError(
                "holds no trained net that says anything of an ECG",
                where=where,
                value=f"step {file.told['step']!r} of stage {file.told['stage']}",
                remedy="export a train, calibrate or threshold step with this version of ecgfed",
            )
        inputs = {net.trained.input for net in self.nets.values()}
        if len(inputs) != 1:
            raise ConfigError("its nets see different inputs", where=where)
        self.input: InputConfig = inputs.pop()
        self.score = next((step for step, part in steps.items() if part["stage"] == "calibrate"), None)
        self.coef: Floats = np.zeros(0) if self.score is None else arrays[self.score]["coef"]
        self._calibrated: dict[str, Any] = {} if self.score is None else steps[self.score]["result"]
        judged = file.told.get("judged", {})
        self._cut = next((part["result"] for part in (*steps.values(), *judged.values()) if _is_cut(part)), None)

    def _net(self, result: dict[str, Any], config: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> _Net:
        import torch

        from ecgshared.learning.layout import Layout

        trained = Trained.model_validate(result)
        samples = trained.model.samples(trained.input.fs_hz, trained.input.seconds)
        dtype = torch.float64 if config["precision"] == "fp64" else torch.float32
        module = build(trained.model, [self.head(h) for h in trained.heads], samples, trained.seed, dtype)
        Layout.of(module).load(module, arrays["weights"])
        return _Net(module.eval(), trained, arrays["standardise"])

    def head(self, name: str) -> HeadSpec:
        """Return a head as the net was built with."""
        e = self.endpoints.get(name)
        if isinstance(e, TimeToEventEndpoint) and e.group is not None:
            return HeadSpec(name, e.group, e.horizon_years)
        return HeadSpec(name, continuous=isinstance(e, ContinuousEndpoint))

    @property
    def needs(self) -> tuple[str, ...]:
        """What it is given beside the signal: age, male, covariates."""
        nets = [name for net in self.nets.values() for name in net.trained.model.side_inputs]
        score = [name for name in self._calibrated.get("inputs", ()) if "." not in name]
        return tuple(dict.fromkeys([*nets, *score]))

    def label(self, name: str) -> str:
        """Return an endpoint in words."""
        endpoint = self.endpoints.get(name)
        return name if endpoint is None or endpoint.label is None else endpoint.label

    def __call__(self, signal: NDArray[np.float32], known: Mapping[str, float]) -> tuple[Output, ...]:
        """Return everything the model says of one ECG, the calibrated risk first.

        Parameters
        ----------
        signal : shape = (12, samples), mV, preprocessed to ``self.input``.
        known : age (years), male (1 or 0) and covariates, where known.
        """
        told = {
            f"{step}.{head}": value
            for step, net in self.nets.items()
            for head, value in zip(net.trained.heads, net.outputs(signal, known), strict=True)
        }
        outputs = [] if self.score is None else [self._risk(told, known)]
        return (*outputs, *(self._plain(name, value) for name, value in told.items()))

    def shares(self, signal: NDArray[np.float32], known: Mapping[str, float]) -> dict[str, Floats]:
        """Return, of each head by ``<step>.<head>``, each sample's share in what it says, shape = (12, samples).

        A head's shares add up to its output less that of a flat ECG (:mod:`ecgshared.learning.attribution`).
        """
        return {
            f"{step}.{head}": net.shares(signal, known, number)
            for step, net in self.nets.items()
            for number, head in enumerate(net.trained.heads)
        }

    def _risk(self, told: Mapping[str, float], known: Mapping[str, float]) -> Output:
        target, inputs = str(self._calibrated["target"]), self._calibrated["inputs"]
        values = {**{name: self._in_unit(name, value) for name, value in told.items()}, **known}
        x = np.array([1.0, *(values.get(name, math.nan) for name in inputs)])
        eta = float(self.coef @ x)
        covariance = self.covariance
        low = high = math.nan
        said = "none: the file does not hold the covariance of the calibration"
        if covariance is not None:
            spread = math.sqrt(max(float(x @ covariance @ x), 0.0))
            low, high = expit(eta - ndtri(0.975) * spread), expit(eta + ndtri(0.975) * spread)
            said = (
                "95% interval of the risk among people whom the model takes for alike (from the calibration's errors)"
            )
        risk = float(expit(eta))
        cutoff = None if self._cut is None or self._cut["target"] != target else self._cut["cutoff"]
        return Output(
            name=target,
            label=self.label(target),
            kind="risk",
            value=risk,
            low=float(low),
            high=float(high),
            interval=said,
            percentile=self._percentile(risk, target),
            above=None if cutoff is None or math.isnan(risk) else risk >= cutoff,
            lacks=tuple(name for name in inputs if math.isnan(values.get(name, math.nan))),
        )

    def _in_unit(self, name: str, value: float) -> float:
        endpoint = self.endpoints.get(name.partition(".")[2])
        return float(endpoint.restore(value)) if isinstance(endpoint, ContinuousEndpoint) else value

    def _plain(self, name: str, value: float) -> Output:
        head = name.partition(".")[2]
        endpoint = self.endpoints.get(head)
        if isinstance(endpoint, ContinuousEndpoint):
            number = self._in_unit(name, value)
            error = self.half_width(name)
            if error is None:
                return Output(name, self.label(head), "number", number, endpoint.unit, interval="none: not yet judged")
            said = "90% interval by conformal prediction: as wide as nine of ten errors on people it had not seen"
            return Output(name, self.label(head), "number", number, endpoint.unit, number - error, number + error, said)
        return Output(
            name,
            self.label(head),
            "probability",
            float(expit(value)),
            interval="none: a probability as the net says it",
        )

    @property
    def score_inputs(self) -> tuple[str, ...] | None:
        """What the calibrated risk is computed from, as ``coef`` behind its intercept; None without one."""
        return None if self.score is None else tuple(self._calibrated["inputs"])

    @property
    def covariance(self) -> Floats | None:
        """Of ``coef``; None where the file does not hold it whole."""
        found = self._calibrated.get("covariance")
        whole = found is not None and all(value is not None for row in found for value in row)
        return np.array(found, dtype=np.float64) if whole else None

    def half_width(self, name: str) -> float | None:
        """Return the half width of a number's conformal interval, where a step judged it."""
        for part in self.told.get("judged", {}).values():
            found = part["result"].get("conformal", {}) if part["stage"] == "age_sex" else {}
            if found.get(name) is not None:
                return float(found[name])
        return None

    def _percentile(self, risk: float, target: str) -> tuple[float, float] | None:
        """Between which shares of the validation ECGs a risk lies, by the cuts that were released of them."""
        if self._cut is None or self._cut["target"] != target or math.isnan(risk):
            return None
        pairs = [
            (float(cut), float(share))
            for cut, share in zip(self._cut["candidates"]["cutoff"], self._cut["candidates"]["share"], strict=True)
            if cut is not None and share is not None
        ]
        least = max([1 - share for cut, share in pairs if cut <= risk], default=0.0)
        most = min([1 - share for cut, share in pairs if cut > risk], default=1.0)
        return 100 * least, 100 * max(most, least)


def _is_cut(part: Mapping[str, Any]) -> bool:
    return bool(part["stage"] == "threshold")


def outputs_as_json(outputs: Sequence[Output]) -> list[dict[str, Any]]:
    """Return outputs as plain values; what is not known is null."""

    def plain(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return [
        {
            "name": o.name,
            "label": o.label,
            "kind": o.kind,
            "value": plain(o.value),
            "unit": o.unit,
            "low": plain(o.low),
            "high": plain(o.high),
            "interval": o.interval,
            "percentile": None if o.percentile is None else list(o.percentile),
            "high_risk": o.above,
            "lacks": list(o.lacks),
        }
        for o in outputs
    ]
