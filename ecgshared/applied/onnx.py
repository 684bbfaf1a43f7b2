"""A model as one ONNX graph, from raw millivolts to its outputs, for runtimes that know nothing of ecgfed.

The graph takes one recording of a stated rate and length and what stands beside it, and holds preprocessing, nets,
calibration and intervals. Its metadata say what goes in and what comes out.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import nn

from ecgshared.applied.model import NOT_FOR_CARE, AppliedModel
from ecgshared.applied.preprocessing import Preprocessing
from ecgshared.ecg.leads import LEADS
from ecgshared.errors import ConfigError, ModelError
from ecgshared.service.files import write_atomically
from ecgshared.study.endpoints import ContinuousEndpoint


class Graph(nn.Module):
    """A model and its preprocessing as one module: ``forward(ecg, beside) -> value, low, high``."""

    def __init__(self, model: AppliedModel, fs: float, length: int) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(model.input, fs, length)
        self.nets = nn.ModuleList(net.module for net in model.nets.values())
        self._trained = [net.trained for net in model.nets.values()]
        self._scales = [torch.tensor(np.asarray(net.standardise, dtype=np.float64)) for net in model.nets.values()]
        self._needs = model.needs
        self._names = [f"{step}.{head}" for step, net in model.nets.items() for head in net.trained.heads]
        self._ends = [model.endpoints.get(name.partition(".")[2]) for name in self._names]
        self._errors = [model.half_width(name) for name in self._names]
        self._inputs = model.score_inputs
        self._coef = torch.tensor(model.coef)
        covariance = model.covariance
        self._covariance = None if covariance is None else torch.tensor(covariance)

    def forward(self, ecg: torch.Tensor, beside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return values and intervals, shape = (n,) each, in the order of :meth:`AppliedModel.__call__`.

        Parameters
        ----------
        ecg : shape = (12, length), float32 mV. beside : shape = (C,), float64, NaN where not known.
        """
        signal = self.preprocessing(ecg)[None]
        told = []
        for net, trained, scale in zip(self.nets, self._trained, self._scales, strict=True):
            rows = [trained.covariates.index(name) for name in trained.model.side_inputs]
            given = (
                torch.stack([beside[self._needs.index(n)] for n in trained.model.side_inputs]) if rows else beside[:0]
            )
            first = next(net.parameters())
            standard = (given - scale[rows, 0]) / scale[rows, 1] if rows else given
            told.append(net(signal.to(first.dtype), standard[None].to(first.dtype))[0].double())
        raw = torch.cat(told)
        columns = [
            raw[i] * e.half_range + (e.range[0] + e.range[1]) / 2 if isinstance(e, ContinuousEndpoint) else raw[i]
            for i, e in enumerate(self._ends)
        ]
        values, low, high = [], [], []
        nothing = torch.full_like(raw[0], torch.nan)
        if self._inputs is not None:
            known = dict(zip(self._names, columns, strict=True))
            known |= {name: beside[i] for i, name in enumerate(self._needs)}
            x = torch.stack([torch.ones_like(raw[0]), *(known[name] for name in self._inputs)])
            eta = (self._coef * x).sum()
            values.append(torch.sigmoid(eta))
            spread = nothing
            if self._covariance is not None:
                spread = float(ndtri(0.975)) * (x @ self._covariance @ x).clamp_min(0).sqrt()
            low.append(torch.sigmoid(eta - spread))
            high.append(torch.sigmoid(eta + spread))
        for column, end, error in zip(columns, self._ends, self._errors, strict=True):
            number = isinstance(end, ContinuousEndpoint)
            values.append(column if number else torch.sigmoid(column))
            low.append(column - error if number and error is not None else nothing)
            high.append(column + error if number and error is not None else nothing)
        return torch.stack(values), torch.stack(low), torch.stack(high)


def write_onnx(model: AppliedModel, file: Path, *, fs: float, seconds: float) -> None:
    """Write the graph for recordings of ``seconds`` at ``fs`` samples a second.

    Raises
    ------
    ConfigError : the packages ``onnx`` and ``onnxscript`` are not installed.
    ModelError : the model sees median beats, or its preprocessing cannot stand in a graph.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError(
            "a graph needs two packages more", where="--onnx", remedy="pip install 'ecgfed[onnx]'"
        ) from None
    if any(net.trained.model.sees != "recording" for net in model.nets.values()):
        raise ModelError("a net of median beats needs its beats found first: no graph holds that")
    length = round(fs * seconds)
    graph = Graph(model, fs, length).eval()
    for net in graph.nets:
        net.for_export()  # type: ignore[operator]
    example = (torch.randn(12, length), torch.zeros(len(model.needs), dtype=torch.float64))
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")
        made: Any = torch.onnx.export(
            graph,
            example,
            dynamo=True,
            verbose=False,
            input_names=["ecg", "beside"],
            output_names=["value", "low", "high"],
        )
    proto = made.model_proto
    for key, value in metadata(model, fs, length).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    write_atomically(file, proto.SerializeToString())


def metadata(model: AppliedModel, fs: float, length: int) -> dict[str, str]:
    """Return what the graph says of itself: leads, rate, length, inputs, outputs, and what it is not for."""
    zero = model(np.zeros((12, model.input.samples), dtype=np.float32), {})
    return {
        "ecg": json.dumps({"leads": list(LEADS), "unit": "mV", "fs_hz": fs, "samples": length, "absent_lead": "NaN"}),
        "beside": json.dumps([{"name": name, "unknown": "NaN"} for name in model.needs]),
        "outputs": json.dumps([{"name": o.name, "label": o.label, "kind": o.kind, "unit": o.unit} for o in zero]),
        "study": str(model.told["study"]),
        "note": NOT_FOR_CARE,
    }


class _quiet:
    """Silence the exporter's log: it names what is not installed and not needed."""

    def __enter__(self) -> None:
        self._level = logging.getLogger("torch.onnx").level
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("torch.onnx").setLevel(self._level)
