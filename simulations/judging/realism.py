"""How like real ECGs the made ones are: each feature against PTB-XL's NORM records, beside how much real sites differ.

Run it as ``ecgfed simulate realism --ptbxl PATH``, with ``--scenario normals_activation`` for hearts of tissue. Made
people have the ages and sexes of the real ones. Distances are Kolmogorov-Smirnov's; two floors stand beside them: real
records split at random in half, and one real site against another.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from ecgshared.errors import CohortError
from simulations.judging.telltales import HELD_OUT, TUNED, Judged, judge, single_aucs, telltales
from simulations.judging.waveform_features import FEATURES, waveform_features

if TYPE_CHECKING:
    from matplotlib.axes import Axes

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
FS = 500.0
_CHUNK = 64


@dataclass(frozen=True)
class Recordings:
    """Ten-second twelve-lead recordings at 500 Hz and whose they are; arrays have shape = (n, ...).

    ``signal``: (n, 12, 5000) float32 mV; ``age`` years, ``male``, ``site`` (empty where there is none), ``patient``.
    """

    signal: F32
    age: F64
    male: NDArray[np.bool_]
    site: NDArray[np.str_]
    patient: NDArray[np.str_]


@dataclass(frozen=True)
class Distances:
    """Kolmogorov-Smirnov distances, one per feature, shape = (features,): of made to real, and two floors."""

    made: F64
    halves: F64
    sites: F64


Part = Literal["all", "fit", "judge"]
"""Which patients: all, those whose hearts were fitted (even numbers), or those kept for judging (odd ones)."""


def read_norm(folder: Path, limit: int | None = None, part: Part = "all") -> Recordings:
    """Read PTB-XL's NORM records of known age (``ptbxl_database.csv`` and ``records500`` below ``folder``).

    Raises
    ------
    CohortError : the folder holds no PTB-XL, or no NORM record.
    """
    from client.readers import read

    path = folder / "ptbxl_database.csv"
    if not path.is_file():
        raise CohortError("is no PTB-XL folder", where=folder, allowed="one with ptbxl_database.csv and records500")
    table = pd.read_csv(path)
    codes = table["scp_codes"].map(ast.literal_eval)
    # PTB-XL writes 300 for ages over 89.
    table = table[codes.map(lambda c: "NORM" in c) & table["age"].between(1, 120)]
    if part != "all":
        table = table[table["patient_id"].astype(int) % 2 == (part == "judge")]
    table = table[[(folder / f"{f}.hea").is_file() for f in table["filename_hr"]]].iloc[:limit]
    if table.empty:
        raise CohortError("holds no NORM record at 500 Hz", where=folder, remedy="fetch records500 too")
    signals = np.stack([read(folder / f"{f}.hea").p_signal for f in table["filename_hr"]])
    return Recordings(
        np.nan_to_num(signals).astype(np.float32),
        table["age"].to_numpy(np.float64),
        (table["sex"] == 0).to_numpy(),
        table["site"].fillna(-1).astype(int).to_numpy().astype(str),
        table["patient_id"].astype(int).to_numpy().astype(str),
    )


def make_like(real: Recordings, copies: int = 1, seed: int = 0, scenario: str = "normals") -> Recordings:
    """Make ECGs of healthy people of the same ages and sexes, ``copies`` for each real one.

    Parameters
    ----------
    scenario : ``normals`` or ``normals_activation``, or another whose first hospital and device are meant.
    """
    from simulations.patients.activation import record_activation
    from simulations.patients.ailments import draw_states
    from simulations.patients.people import draw_people
    from simulations.patients.recording import record_ecgs
    from simulations.patients.scenario import load_scenario

    world = load_scenario(scenario)
    hospital = next(iter(world.hospitals.values()))
    device = hospital.devices[0]
    age, male = np.repeat(real.age, copies), np.repeat(real.male, copies)
    rng = np.random.default_rng(seed)
    people = replace(draw_people(rng, hospital.population, len(age)), age=age, male=male)
    none = np.zeros(len(age), dtype=bool)

    def chunks() -> Iterator[F32]:
        for start in range(0, len(age), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(age)))
            some = people.rows(rows, age[rows])
            if world.heart == "activation":
                states = draw_states(rng, some, hospital.population.ailments, none[rows])
                yield record_activation(
                    rng, some, states, hospital, device, world.waveform, world.seconds, scatter=world.heart_scatter
                )
            else:
                yield record_ecgs(
                    rng, some, none[rows], hospital, device, world.waveform, world.seconds, physique=world.physique
                )

    blank = np.full(len(age), "")
    return Recordings(np.concatenate(list(chunks())), age, male, blank, np.arange(len(age)).astype(str))


def features_of(recordings: Recordings) -> F64:
    """Return :func:`waveform_features` of each, shape = (n, features)."""
    return np.array([waveform_features(signal, FS) for signal in recordings.signal])


def ks_distances(a: F64, b: F64) -> F64:
    """Return the largest distance between the distribution functions of each feature, shape = (features,)."""
    from scipy.stats import ks_2samp

    return np.array(
        [float(ks_2samp(x[np.isfinite(x)], y[np.isfinite(y)]).statistic) for x, y in zip(a.T, b.T, strict=True)]
    )


def distances(real: Recordings, real_features: F64, made_features: F64, splits: int = 20) -> Distances:
    """Compare made with real, real halves with each other (mean of ``splits``), and the two largest real sites.

    Raises
    ------
    CohortError : the real records come from one site.
    """
    sites, counts = np.unique(real.site, return_counts=True)
    if len(sites) < 2:
        raise CohortError("real records of two sites are needed for the floor between sites", value=sites.tolist())
    first, second = sites[np.argsort(counts)[-2:]]
    rng = np.random.default_rng(0)
    patients, index = np.unique(real.patient, return_inverse=True)
    halves = []
    for _ in range(splits):
        mine = (rng.permutation(len(patients)) % 2 == 0)[index]
        halves.append(ks_distances(real_features[mine], real_features[~mine]))
    return Distances(
        ks_distances(made_features, real_features),
        np.mean(halves, axis=0),
        ks_distances(real_features[real.site == first], real_features[real.site == second]),
    )


def delineation_rates(recordings: Recordings, count: int) -> dict[str, float]:
    """Return how often NeuroKit2 finds what is there, in lead II of the first ``count`` recordings.

    Returns
    -------
    ``beats``: QRS complexes (found on all leads at once) with an R peak within 100 ms; ``extra``: R peaks with no QRS
    near, over the complexes; ``P onset``, ``QRS onset``, ``QRS offset``, ``T offset``: share of R peaks for which the
    wavelet delineation gives one.
    """
    import warnings

    import neurokit2

    from ecgshared.ecg.beats import median_beat, r_peaks

    marks = {"P onset": "ECG_P_Onsets", "QRS onset": "ECG_R_Onsets", "QRS offset": "ECG_R_Offsets"}
    marks["T offset"] = "ECG_T_Offsets"
    found, beats, extra, total = dict.fromkeys(marks, 0), 0, 0, 0
    peaks_in_all = 0
    for signal in recordings.signal[:count]:
        beat = median_beat(signal, FS)
        peaks = r_peaks(signal[1], FS)
        if beat is None:
            continue
        apart = np.abs(beat.qrs[:, None] - peaks[None]) if len(peaks) else np.full((len(beat.qrs), 1), np.inf)
        total += len(beat.qrs)
        beats += int((apart.min(axis=1) < 0.1 * FS).sum())
        extra += int((apart.min(axis=0) >= 0.1 * FS).sum()) if len(peaks) else 0
        if len(peaks) < 4:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where it finds nothing, which is what is counted here
            clean = neurokit2.ecg_clean(signal[1].astype(float), sampling_rate=round(FS))
            _, waves = neurokit2.ecg_delineate(clean, peaks, sampling_rate=round(FS), method="dwt")
        peaks_in_all += len(peaks)
        for mark, key in marks.items():
            found[mark] += int(np.isfinite(np.asarray(waves[key], dtype=np.float64)).sum())
    rates = {"beats": beats / max(total, 1), "extra": extra / max(total, 1)}
    return rates | {mark: n / max(peaks_in_all, 1) for mark, n in found.items()}


def detector_auc(real: Recordings, made: Recordings, epochs: int = 20, seed: int = 0) -> float:
    """Return the AUC, on patients it has not seen, of a small convolutional net that tells real from made.

    Two folds by patient; recordings at 100 Hz between 0.5 and 40 Hz, so that it must look at waves, not at filters.
    """
    import torch
    from scipy.signal import butter, resample_poly, sosfiltfilt
    from sklearn.metrics import roc_auc_score

    sos = butter(2, (0.5, 40), "bandpass", fs=FS, output="sos")
    both = np.concatenate([real.signal, made.signal])
    x = resample_poly(sosfiltfilt(sos, both, axis=-1), 1, 5, axis=-1).astype(np.float32)
    y = np.r_[np.zeros(len(real.signal)), np.ones(len(made.signal))].astype(np.float32)
    rng = np.random.default_rng(seed)
    fold = np.concatenate([_folds(rng, real.patient), _folds(rng, made.patient)])
    score = np.empty(len(y))
    for held in (0, 1):
        torch.manual_seed(seed)
        layers: list[torch.nn.Module] = []
        for width_in, width in ((12, 24), (24, 32), (32, 48)):
            layers += [torch.nn.Conv1d(width_in, width, 9, stride=2, padding=4), torch.nn.GroupNorm(4, width)]
            layers += [torch.nn.ReLU()]
        net = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten(), torch.nn.Linear(48, 1))
        optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
        rows = np.flatnonzero(fold != held)
        for _ in range(epochs):
            for batch in np.array_split(rng.permutation(rows), max(len(rows) // 32, 1)):
                optimiser.zero_grad()
                out = net(torch.from_numpy(x[batch]))[:, 0]
                torch.nn.functional.binary_cross_entropy_with_logits(out, torch.from_numpy(y[batch])).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        with torch.no_grad():
            score[fold == held] = net(torch.from_numpy(x[fold == held]))[:, 0].numpy()
    return float(np.mean([roc_auc_score(y[fold == f], score[fold == f]) for f in (0, 1)]))


def _folds(rng: np.random.Generator, patient: NDArray[np.str_]) -> NDArray[np.int64]:
    names, index = np.unique(patient, return_inverse=True)
    return np.asarray((rng.permutation(len(names)) % 2)[index])


def physics_of(name: str) -> str:
    """Return the physics of a scenario's hearts."""
    from simulations.patients.scenario import load_scenario

    return load_scenario(name).heart


def tell_apart(real: Recordings, made: Recordings) -> tuple[F64, Judged]:
    """Print how well single features tell made from real, and a judge who sees those that were held out.

    Returns
    -------
    AUC of each feature of :mod:`simulations.judging.telltales`, shape = (features,), and of the judge.
    """
    theirs, ours = (np.array([telltales(signal) for signal in part.signal]) for part in (real, made))
    aucs = single_aucs(theirs, ours)
    for i, name in enumerate((*TUNED, *HELD_OUT)):
        middle = " against ".join(f"{np.nanmedian(part[:, i]):.3g}" for part in (theirs, ours))
        typer.echo(f"{name:26} {'held out' if i >= len(TUNED) else 'tuned':9} AUC {aucs[i]:.3f}  real {middle} made")
    found = judge(theirs[:, len(TUNED) :], ours[:, len(TUNED) :], real.patient)
    typer.echo(f"AUC of a judge of the held-out features, five-fold by patient: {found.auc:.3f} (0.5: it cannot)")
    return aucs, found


def draw_sheets(path: Path, *kinds: tuple[str, Recordings], count: int = 6) -> None:
    """Draw sheets of recordings, each kind in a column under its name ("" says nothing of what it is)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13 * len(kinds), 6.4 * count), layout="constrained")
    for row in range(count):
        for column, (name, part) in enumerate(kinds):
            axes = figure.add_subplot(count, len(kinds), len(kinds) * row + column + 1)
            _draw_sheet(axes, part.signal[row])
            sex = "man" if part.male[row] else "woman"
            axes.set_title(f"{name}: {sex} of {part.age[row]:.0f}".removeprefix(": "), fontsize=9)
    figure.savefig(path, dpi=70)


def _draw_sheet(axes: Axes, x: F32) -> None:
    """Draw twelve leads, a quarter of the recording each in four columns, and all of lead II below."""
    quarter = x.shape[1] // 4
    at = np.arange(quarter) / FS
    for k, name in enumerate(LEADS):
        left, piece = k // 3 * quarter / FS, x[k, k // 3 * quarter : (k // 3 + 1) * quarter]
        axes.plot(at + left, piece - np.median(piece) - 2 * (k % 3), "k", lw=0.8)
        axes.text(left + 0.05, 0.75 - 2 * (k % 3), name, fontsize=8)
    axes.plot(np.arange(x.shape[1]) / FS, x[1] - np.median(x[1]) - 6, "k", lw=0.8)
    axes.set(xticks=np.arange(0, 10.1, 0.2), yticks=np.arange(-7.5, 2, 0.5), xlim=(0, 10), ylim=(-7.5, 1.8))
    axes.grid(color="#f4b6b6", lw=0.4)
    axes.tick_params(labelbottom=False, labelleft=False, length=0)


def sheets(path: Path, *, scenario: str, ptbxl: Path | None, count: int, seed: int, blind: bool) -> str:
    """Draw made sheets, beside as many real NORM ones of the same ages and sexes where ``ptbxl`` is given.

    Returns
    -------
    What was drawn, in words; with ``blind``, where columns have no names and are in a drawn order, which is which.
    """
    rng = np.random.default_rng([seed, 6])
    if ptbxl is None:
        age, male = rng.integers(22, 85, count).astype(np.float64), np.arange(count) % 2 == 0
        blank = np.full(count, "")
        real = Recordings(np.empty((count, 12, 0), np.float32), age, male, blank, blank)
        draw_sheets(path, ("made", make_like(real, 1, seed, scenario)), count=count)
        return f"{count} made sheets: {path}"
    every = read_norm(ptbxl, part="judge" if physics_of(scenario) == "activation" else "all")
    chosen = np.sort(rng.choice(len(every.age), count, replace=False))
    real = Recordings(*(getattr(every, name)[chosen] for name in Recordings.__dataclass_fields__))
    kinds = [("made", make_like(real, 1, seed, scenario)), ("real", real)]
    if blind and rng.random() < 0.5:
        kinds.reverse()
    draw_sheets(path, *(("" if blind else name, part) for name, part in kinds), count=count)
    told = f"; from left to right: {', '.join(name for name, _ in kinds)}" if blind else ""
    return f"{count} made and {count} real sheets: {path}; it holds real ECGs{told}"


def compare(
    ptbxl: Path,
    *,
    scenario: str = "normals",
    records: int | None = None,
    copies: int = 2,
    delineated: int = 100,
    seed: int = 0,
    picture: Path | None = None,
) -> Distances:
    """Print the comparison with the NORM records below ``ptbxl``, and return its distances.

    Parameters
    ----------
    scenario : whose healthy people are made. Records that hearts of tissue were fitted to are left out for them.
    records : only the first so many. copies : made ECGs for each real one. delineated : recordings of each kind that
        NeuroKit2 is put to; 0 leaves that out. picture : where to draw six made and six real sheets.
    """
    fitted = physics_of(scenario) == "activation"
    real = read_norm(ptbxl, records, "judge" if fitted else "all")
    made = make_like(real, copies, seed, scenario)
    real_features, made_features = features_of(real), features_of(made)
    found = distances(real, real_features, made_features)
    typer.echo(f"{len(real.signal)} real NORM records, {len(made.signal)} made ones of the same ages and sexes")
    typer.echo(f"{'feature':14} {'real 5/50/95%':>27} {'made 5/50/95%':>27}  made  halves  sites")
    for i, name in enumerate(FEATURES):
        spread = (
            "/".join(f"{v:.4g}" for v in np.nanpercentile(part[:, i], (5, 50, 95)))
            for part in (real_features, made_features)
        )
        one, two = spread
        typer.echo(f"{name:14} {one:>27} {two:>27} {found.made[i]:.3f}   {found.halves[i]:.3f}  {found.sites[i]:.3f}")
    middle = [float(np.median(part)) for part in (found.made, found.halves, found.sites)]
    typer.echo(f"{'median':14} {'':27} {'':27} {middle[0]:.3f}   {middle[1]:.3f}  {middle[2]:.3f}")
    typer.echo(f"made to real over site to site: {middle[0] / middle[2]:.2f} (bar: at most 1.5)")
    single = np.arange(0, len(made.signal), copies)
    like = Recordings(*(getattr(made, name)[single] for name in Recordings.__dataclass_fields__))
    typer.echo(f"AUC of a small net that tells real from made: {detector_auc(real, like):.3f} (0.5: it cannot)")
    tell_apart(real, like)
    if picture is not None:
        draw_sheets(picture, ("real", real), ("made", like))
        typer.echo(f"six made and six real sheets: {picture}; it holds real ECGs")
    if delineated:
        for kind, recordings in (("real", real), ("made", like)):
            rates = delineation_rates(recordings, delineated)
            typer.echo(f"NeuroKit2 on {kind}: " + ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items()))
    return found
