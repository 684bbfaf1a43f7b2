"""From a recording's file to what a model says of it: read, judged by the quality policy, preprocessed, applied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.cache.entries import UNITS_PER_MV
from client.ingest.reading import to_units
from client.readers import read
from client.site.settings import QualityPolicy, SiteSettings
from ecgshared.applied.file import read_model_file
from ecgshared.applied.model import AppliedModel, Output, outputs_as_json
from ecgshared.ecg.preprocess import preprocess_record
from ecgshared.ecg.quality import decide, examine, repair
from ecgshared.ecg.record import EcgRecord
from ecgshared.errors import EcgReadError, RunError


@dataclass(frozen=True)
class Prediction:
    """What a model says of one recording, or why it says nothing.

    Attributes
    ----------
    outputs : empty where the recording was refused; ``refused`` says why then.
    findings : codes of the quality report, each once. repaired : whether it was repaired, as a site would.
    known : what the model was told beside the signal. signal : what the nets saw, shape = (12, samples), mV.
    """

    file: Path
    outputs: tuple[Output, ...] = ()
    refused: str = ""
    findings: tuple[str, ...] = ()
    repaired: bool = False
    known: Mapping[str, float] = field(default_factory=dict)
    record: EcgRecord | None = None
    signal: NDArray[np.float32] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "file": str(self.file),
            "refused": self.refused or None,
            "findings": list(self.findings),
            "repaired": self.repaired,
            "given": dict(self.known),
            "outputs": outputs_as_json(self.outputs),
        }


def load(model: Path, step: str | None = None) -> AppliedModel:
    """Load a model from an exported file, or from a run's folder.

    Parameters
    ----------
    step : of a run: the step whose model is wanted; the last that can be applied unless told.

    Raises
    ------
    ConfigError, RunError : there is no model in it.
    """
    if not model.is_dir():
        try:
            content = model.read_bytes()
        except OSError as error:
            raise RunError(
                f"the model cannot be read ({type(error).__name__})",
                where=model,
                remedy="give a file that `ecgfed model export` wrote, or a run's folder",
            ) from None
        return AppliedModel(read_model_file(content, model), model)
    from server.rounds.export import run_model
    from server.rounds.run_folder import RunFolder

    folder = RunFolder.reopen(model)
    try:
        finished = [s.id for s in folder.study.steps if s.can_be_frozen and folder.artefact(s.id) is not None]
        if not finished:
            raise RunError("no step of this run can be applied to an ECG", where=model)
        return AppliedModel(read_model_file(run_model(folder, step or finished[-1]), model), model)
    finally:
        folder.close()


def predict(
    model: AppliedModel,
    file: Path,
    *,
    settings: SiteSettings | None = None,
    given: Mapping[str, float] | None = None,
) -> Prediction:
    """Apply a model to one recording.

    Parameters
    ----------
    settings : of a site, whose quality policy and words about plain arrays count; a site's defaults unless told.
    given : age (years), male (1 or 0), covariates; what is not given is taken from the recording where it says so.
    """
    policy = QualityPolicy() if settings is None else settings.quality
    try:
        record = read(file, None if settings is None else settings.described)
    except EcgReadError as error:
        return Prediction(file, refused=str(error))
    findings, _ = examine(record)
    codes = tuple(dict.fromkeys(f.code for f in findings))
    action = decide(findings, policy.actions, policy.default, most_empty=policy.most_empty)
    if action == "refuse":
        return Prediction(file, refused=f"refused by the quality policy: {', '.join(codes)}", findings=codes)
    repaired = False
    if action == "repair":
        record, repaired = repair(record, findings, policy.actions)
    known = _known(record, given or {}, model.needs)
    # As the sites keep it: whole microvolts.
    signal = to_units(preprocess_record(record, model.input)).astype(np.float32) / np.float32(UNITS_PER_MV)
    return Prediction(file, model(signal, known), "", codes, bool(repaired), known, record, signal)


def _known(record: EcgRecord, given: Mapping[str, float], needs: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    if record.age_years is not None:
        found["age"] = float(record.age_years)
    if record.sex is not None:
        found["male"] = float(record.sex == "M")
    return {name: value for name, value in {**found, **given}.items() if name in needs}


def in_words(o: Output) -> str:
    """Return an output as a line: its value, interval, place and group."""
    if o.lacks:
        return f"not known: the model also takes {', '.join(o.lacks)}"
    number = o.kind == "number"
    parts = [f"{o.value:.1f} {o.unit}".strip() if number else f"{o.value:.2%}"]
    if o.low == o.low:
        parts.append(f"{o.low:.1f} to {o.high:.1f}" if number else f"{o.low:.2%} to {o.high:.2%}")
    if o.kind == "probability":
        parts.append("uncalibrated")
    if o.percentile is not None:
        low, high = o.percentile
        parts.append(f"higher than {low:.0f} to {high:.0f}% of the validation ECGs")
    if o.above is not None:
        parts.append("in the high-risk group" if o.above else "below the cut-off")
    return "; ".join(parts)
