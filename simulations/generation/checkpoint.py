"""A trained conditional VAE as it lies in a run folder, ready to make beats."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors

from ecgshared.config import validate
from ecgshared.ecg.input import InputConfig
from ecgshared.errors import RunError
from ecgshared.models import MODELS, BaseModelConfig, config_class
from ecgshared.models.decode import decode_beats

if TYPE_CHECKING:
    from torch import nn

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Checkpoint:
    """What a train step left.

    Attributes
    ----------
    sha256 : of the arrays' file: says which weights made a beat.
    mean, sd : of each condition over the people trained on, in its own unit, shape = (C,); NaN where no site told.
    """

    path: Path
    step: str
    sha256: str
    model: nn.Module
    config: BaseModelConfig
    input: InputConfig
    mean: F64
    sd: F64

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names, in the model's order."""
        return self.config.side_inputs

    def standardised(self, values: F64) -> F64:
        """Return conditions (n, C) in their own units as the model wants them; what no site told is missing."""
        return (values - self.mean) / self.sd

    def decode(self, z: F64, values: F64) -> F32:
        """Return beats of latents (n, latent) and conditions (n, C) in their own units, shape = (n, 12, W), mV."""
        return decode_beats(self.model, z, self.standardised(values))

    def encode(self, beats: F32, values: F64) -> F64:
        """Return the posterior means of beats (n, 12, W) and conditions (n, C), shape = (n, latent)."""
        import torch

        with torch.no_grad():
            x, given = (torch.as_tensor(a, dtype=torch.float64) for a in (beats, self.standardised(values)))
            return np.asarray(self.model(x, given).double().numpy())


def load_checkpoint(path: Path, step: str | None = None) -> Checkpoint:
    """Read a run folder, or one artefact of it (``artefacts/STEP.json``).

    Raises
    ------
    RunError : there is none, several and ``step`` does not choose, the weights were altered or do not fit.
    """
    file = _artefact(path, step)
    content = _json(file)
    result = content["result"]
    data = _bytes(file.with_suffix(".safetensors"))
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != content.get("arrays_sha256"):
        raise RunError("the weights do not match the hash their step recorded", where=file.with_suffix(".safetensors"))
    arrays = load_tensors(data)
    config = validate(config_class(result["model"]["name"]), result["model"], where=file)
    settings = validate(InputConfig, result["input"], where=file)
    model = _model(config, settings, result, arrays["weights"], file)
    rows = [list(result["covariates"]).index(name) for name in config.side_inputs]
    moments = np.asarray(arrays["standardise"], dtype=np.float64)[rows].reshape(-1, 2)
    # Moments of 0 and 1 stand for a condition that no site told.
    told = ~((moments[:, 0] == 0) & (moments[:, 1] == 1))
    mean, sd = (np.where(told, moments[:, i], np.nan) for i in (0, 1))
    return Checkpoint(file, content["step"], sha256, model, config, settings, mean, sd)


def _model(
    config: BaseModelConfig, settings: InputConfig, result: dict[str, Any], weights: NDArray[Any], file: Path
) -> nn.Module:
    import torch

    from ecgshared.learning.layout import Layout
    from ecgshared.models import build

    model = build(config, (), config.samples(settings.fs_hz, settings.seconds), int(result["seed"]), torch.float32)
    layout = Layout.of(model, "fedbn" if result["strategy"] == "fedbn" else "full")
    if layout.hash != result["layout"]:
        raise RunError(
            "was trained by a version of ecgfed whose model is another", where=file, remedy="use that version, or train"
        )
    layout.load(model, weights)
    # In double precision a beat is the same to the last count, however many are made beside it.
    return model.double().eval()


def _artefact(path: Path, step: str | None) -> Path:
    if path.is_file() or path.with_suffix(".json").is_file():
        file = path.with_suffix(".json")
        if not _makes_beats(file):
            raise RunError("is no trained cvae", where=file, remedy="name a train step whose model is a cvae")
        return file
    found = {file.stem: file for file in sorted((path / "artefacts").glob("*.json")) if _makes_beats(file)}
    if step is not None:
        if step not in found:
            raise RunError(
                "the run has no such trained cvae", where=path, value=step, allowed=", ".join(found) or "none"
            )
        return found[step]
    if len(found) != 1:
        raise RunError(
            "holds several trained cvaes" if found else "holds no trained cvae",
            where=path,
            allowed=", ".join(found) or "a run folder of a study with a train step whose model is a cvae",
            remedy="choose one with --step" if found else "run such a study first: ecgfed simulate run",
        )
    return next(iter(found.values()))


def _makes_beats(file: Path) -> bool:
    content = _json(file)
    model = content.get("result", {}).get("model") if content.get("stage") == "train" else None
    name = model.get("name") if isinstance(model, dict) else None
    return name in MODELS and config_class(name).makes_beats and config_class(name).sees == "median_beat"


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_bytes(file))
    except ValueError:
        raise RunError("is no JSON", where=file) from None
    return content if isinstance(content, dict) else {}


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RunError(f"cannot be read ({error.strerror})", where=file) from None
