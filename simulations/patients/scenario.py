"""A scenario: which hospitals to make, whom they treat, how they record, and how they write it down."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from ecgshared.config import Config, load_yaml, validate
from ecgshared.errors import ConfigError
from ecgshared.study.columns import STANDARD_COLUMNS
from simulations.patients.ailments import AilmentsConfig
from simulations.patients.clinical import CLINICAL, STATEMENTS
from simulations.physics.body import Physique
from simulations.physics.disease import HazardEffects, WaveformEffects

SCENARIOS = Path(__file__).parent.parent / "scenarios"

FileFormat = Literal["wfdb", "philips_xml", "muse_xml", "hl7_aecg", "dicom"]
SUFFIXES: dict[FileFormat, str] = {
    "wfdb": ".hea",
    "philips_xml": ".xml",
    "muse_xml": ".xml",
    "hl7_aecg": ".xml",
    "dicom": ".dcm",
}
"""The file of each format that stands for a recording."""


HeartPhysics = Literal["gaussians", "activation"]
"""Sums of Gaussian waves that a table reshapes, or muscle that a front activates."""


class PopulationConfig(Config):
    """Whom a hospital treats."""

    patients: int = Field(ge=1)
    ecgs_per_patient: float = Field(default=1.5, ge=1, description="mean; further ECGs are Poisson")
    age_mean: float = Field(default=64, ge=20, le=90)
    age_sd: float = Field(default=12, gt=0)
    male_share: float = Field(default=0.55, ge=0, le=1)
    bmi_mean: float = Field(default=27, ge=15, le=45)
    bmi_sd: float = Field(default=4.5, gt=0)
    heart_failure_share: float = Field(default=0.2, gt=0, lt=1)
    fibrosis_median: float = Field(default=0.15, gt=0, lt=0.45, description="of a man of 65 without heart failure")
    fibrosis_spread: float = Field(default=1.2, gt=0, description="SD on the logit scale")
    heart_failure_lvef_loss: float = Field(default=0.16, ge=0, le=0.4)
    af_share: float = Field(default=0.06, ge=0, le=1)
    ailments: AilmentsConfig = Field(default=AilmentsConfig(), description="how common; with the activated heart")


class CareConfig(Config):
    """What happens to patients: dates, devices, gaps in follow-up."""

    first_ecg: date = date(2012, 1, 1)
    last_ecg: date = date(2017, 12, 31)
    data_end: date = date(2021, 12, 31)
    lost_share: float = Field(default=0.06, ge=0, le=1, description="patients last seen well before the end of data")
    lvef_measured_share: float = Field(default=0.4, ge=0, le=1)
    defibrillator_if_low: float = Field(default=0.25, ge=0, le=1, description="share implanted where LVEF <= 35%")
    defibrillator_otherwise: float = Field(default=0.004, ge=0, le=1)
    defibrillator_prevents: float = Field(default=0.6, ge=0, le=1, description="share of arrhythmic deaths prevented")
    vfvt_found: float = Field(
        default=1.0, gt=0, description="VF/VT this system's monitoring and coding finds, relative to others"
    )

    @model_validator(mode="after")
    def _in_order(self) -> CareConfig:
        if not self.first_ecg < self.last_ecg < self.data_end:
            raise ValueError("first_ecg, last_ecg and data_end must follow one another")
        return self


class DeviceConfig(Config):
    """One kind of electrocardiograph."""

    name: str = Field(pattern=r"^[ -~]{1,40}$", description="ASCII: WFDB headers hold nothing else")
    fs_hz: Literal[250, 400, 500, 1000]
    adc_units_per_mv: float = Field(default=1000.0, gt=0)
    lowpass_hz: float = Field(default=150.0, gt=0)
    share: float = Field(default=1.0, gt=0)
    flat_end_ms: float = Field(
        default=0.0, ge=0, le=500, description="what the recorder leaves flat at the end; with the activated heart"
    )
    format: FileFormat = Field(default="wfdb", description="what it exports")


class NoiseConfig(Config):
    """Median sizes; each record draws its own around them. Microvolts RMS at an electrode."""

    mains_hz: Literal[50, 60] = 50
    mains_uv: float = Field(default=4.0, ge=0)
    muscle_uv: float = Field(default=9.0, ge=0)
    wander_uv: float = Field(default=45.0, ge=0)
    white_uv: float = Field(default=3.0, ge=0)
    spread: float = Field(default=0.45, ge=0, description="SD of a record's logarithmic departure from these sizes")


class HabitsConfig(Config):
    """How electrodes are put on, and how often that goes wrong."""

    placement_sd_cm: float = Field(default=1.2, ge=0)
    v1_v2_high_cm: float = Field(default=1.0, description="mean height of V1 and V2 above their place")
    swapped_share: float = Field(default=0.01, ge=0, le=1, description="arm electrodes, or V1 and V2, exchanged")
    dead_share: float = Field(default=0.005, ge=0, le=1, description="one chest electrode off")


class SeriesConfig(Config):
    """A case-control series: people in cardiac arrest and random controls, ECGs before the index date."""

    arrhythmic_share: float = Field(gt=0, lt=1, description="share of the patients: arrhythmic arrests")
    other_share: float = Field(gt=0, lt=1, description="share of the patients: non-arrhythmic arrests")
    within_years: float = Field(default=3.0, gt=0, description="the first ECG is at most this long before the index")
    last_days_share: float = Field(
        default=0.2, ge=0, le=1, description="cases who have one more ECG in the two days before the arrest"
    )

    @model_validator(mode="after")
    def _leaves_controls(self) -> SeriesConfig:
        if self.arrhythmic_share + self.other_share >= 1:
            raise ValueError("arrhythmic_share and other_share leave no controls")
        return self


class ImagingConfig(Config):
    """Anatomy measured in each person and written beside the ECG."""

    position_error_cm: float = Field(default=0.2, ge=0)
    turn_error_deg: float = Field(default=2.0, ge=0)
    volume_error: float = Field(default=0.05, ge=0, description="relative")
    volumes_share: float = Field(default=1.0, ge=0, le=1, description="persons whose ventricles were measured")


class TableStyle(Config):
    """How the hospital writes its cohort table."""

    separator: Literal[",", ";", "\t", "|"] = ","
    decimal: Literal[".", ","] = "."
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    date_format: str = "%Y-%m-%d"
    time_format: str = "%Y-%m-%d %H:%M"
    columns: dict[str, str] = Field(description="standard column: local column; those left out are not kept here")
    declared: dict[str, str] = Field(
        default={}, description="column beside the standard ones, which a study declares: local column"
    )
    sex: tuple[str, str] = Field(default=("F", "M"), description="how female and male are written")
    flag: tuple[str, str] = Field(default=("0", "1"), description="how no and yes are written")
    lvef_percent: bool = False
    labels: dict[str, str] = Field(default={}, description="label of a case-control series: local column")
    icd_dots: bool = Field(default=True, description="I46.1, else I461")

    @model_validator(mode="after")
    def _known(self) -> TableStyle:
        unknown = sorted(set(self.columns) - set(STANDARD_COLUMNS))
        if unknown:
            raise ValueError(f"not standard columns: {', '.join(unknown)}")
        unknown = sorted(set(self.declared) - set(CLINICAL))
        if unknown:
            raise ValueError(f"declared names {', '.join(unknown)}; what can be made: {', '.join(CLINICAL)}")
        needed = {"ecg_id", "patient_id", "file", "recorded_at"} - set(self.columns)
        if needed:
            raise ValueError(f"columns must name {', '.join(sorted(needed))}")
        local = [*self.columns.values(), *self.labels.values(), *self.declared.values()]
        if len(set(local)) < len(local):
            raise ValueError("two columns share a local column")
        return self


class HospitalConfig(Config):
    """One hospital."""

    trains: bool = True
    population: PopulationConfig
    care: CareConfig = CareConfig()
    devices: tuple[DeviceConfig, ...] = Field(min_length=1)
    noise: NoiseConfig = NoiseConfig()
    habits: HabitsConfig = HabitsConfig()
    series: SeriesConfig | None = Field(default=None, description="a case-control series instead of a cohort")
    imaging: ImagingConfig | None = None
    replicas: int = Field(default=1, ge=1, le=999, description="hospitals like this one, each drawn around it")
    table: TableStyle

    @model_validator(mode="after")
    def _one_kind_of_file(self) -> HospitalConfig:
        if len({SUFFIXES[device.format] for device in self.devices}) > 1:
            raise ValueError("the devices of a hospital must export files of one suffix: its site file has one pattern")
        return self

    @property
    def suffix(self) -> str:
        """Suffix of the files that stand for its recordings."""
        return SUFFIXES[self.devices[0].format]


class Scenario(Config):
    """A scenario file."""

    format_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    like: str | None = Field(
        default=None,
        description="a scenario that comes with the package: its keys hold where this file is silent; "
        "null takes one out",
    )
    purpose: str
    seed: int = 0
    seconds: float = Field(default=10.0, ge=3, le=60)
    event_rate: float = Field(
        gt=0,
        lt=0.9,
        description="mean share of ECGs followed by the event, by which the baseline "
        "hazard is set, over the hospitals that train",
    )
    max_age: float = Field(default=120, gt=0, description="patients of this age and more don't count in event_rate")
    horizon_years: float = Field(gt=0, le=10)
    heart: HeartPhysics = Field(
        default="gaussians", description="gaussians, or activation: tissue that a front crosses, and what ails it"
    )
    heart_scatter: float = Field(
        default=1.0, ge=0, le=2, description="how far activated hearts differ, against healthy people"
    )
    waveform: WaveformEffects = WaveformEffects()
    physique: Physique = Physique()
    hazard: HazardEffects = HazardEffects()
    hospitals: dict[str, HospitalConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _statements_need_tissue(self) -> Scenario:
        for name, hospital in self.hospitals.items():
            stated = sorted(set(STATEMENTS) & set(hospital.table.declared))
            if stated and self.heart == "gaussians":
                raise ValueError(f"hospitals.{name} declares {', '.join(stated)}, which needs heart: activation")
        return self


def scenario_names() -> tuple[str, ...]:
    """Return the names of the scenarios that come with the package."""
    # The study that goes with a scenario lies beside it.
    return tuple(sorted(path.stem for path in SCENARIOS.glob("*.yaml") if not path.stem.endswith("_study")))


def load_scenario(name_or_path: str) -> Scenario:
    """Read a scenario by its name, or from a YAML file.

    Raises
    ------
    ConfigError : no such scenario, or the file is not valid.
    """
    path = SCENARIOS / f"{name_or_path}.yaml" if name_or_path in scenario_names() else Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            "there is no such scenario",
            value=name_or_path,
            allowed=", ".join(scenario_names()),
            remedy="give one of these names, or the path of a YAML file",
        )
    return expanded(validate(Scenario, _whole(path), where=path))


def _whole(path: Path) -> dict[str, Any]:
    """Return what a scenario file says, on top of the scenario that it is like."""
    own = load_yaml(path, aliases=True)
    other = own.get("like")
    if other is None:
        return own
    if other not in scenario_names() or (SCENARIOS / f"{other}.yaml").resolve() == path.resolve():
        raise ConfigError("is like no other scenario", where=path, value=other, allowed=", ".join(scenario_names()))
    return _over(_whole(SCENARIOS / f"{other}.yaml"), own)


def _over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with what ``own`` says in its place, key by key down through mappings; null takes a key out."""
    found = dict(base)
    for key, value in own.items():
        if value is None:
            found.pop(key, None)
            continue
        held = found.get(key)
        found[key] = _over(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return found


def study_of(scenario: str) -> str | None:
    """Return the text of the study that comes with a scenario, or with the one it is like; None where none does."""
    if scenario not in scenario_names():
        return None
    path = SCENARIOS / f"{scenario}_study.yaml"
    if path.exists():
        return path.read_text(encoding="utf-8")
    other = load_yaml(SCENARIOS / f"{scenario}.yaml", aliases=True).get("like")
    return None if other is None else study_of(other)


def expanded(scenario: Scenario) -> Scenario:
    """Return the scenario with each hospital that has replicas replaced by them: NAME_001, NAME_002, ...

    A replica has one of the devices, and size, patients, noise and habits of its own around those given; which is
    fixed by the scenario, not by the seed of the making.
    """
    hospitals: dict[str, HospitalConfig] = {}
    for number, (name, hospital) in enumerate(scenario.hospitals.items()):
        if hospital.replicas == 1:
            hospitals[name] = hospital
            continue
        rng = np.random.default_rng([scenario.seed, number, 7])
        for copy in range(1, hospital.replicas + 1):
            hospitals[f"{name}_{copy:03d}"] = _replica(rng, hospital)
    return scenario.model_copy(update={"hospitals": hospitals})


def _replica(rng: np.random.Generator, hospital: HospitalConfig) -> HospitalConfig:
    def times(value: float, sd: float, top: float = np.inf) -> float:
        return float(round(min(value * np.exp(sd * rng.standard_normal()), top), 4))

    whom, noise, habits = hospital.population, hospital.noise, hospital.habits
    shares = np.array([device.share for device in hospital.devices])
    population = whom.model_copy(
        update={
            "patients": max(round(times(whom.patients, 0.5)), 1),
            "age_mean": float(np.clip(round(whom.age_mean + 3 * rng.standard_normal(), 1), 25, 85)),
            "male_share": float(np.clip(round(whom.male_share + 0.06 * rng.standard_normal(), 3), 0.05, 0.95)),
            "heart_failure_share": times(whom.heart_failure_share, 0.3, 0.9),
            "fibrosis_median": times(whom.fibrosis_median, 0.1, 0.44),
        }
    )
    return hospital.model_copy(
        update={
            "replicas": 1,
            "population": population,
            "devices": (hospital.devices[int(rng.choice(len(shares), p=shares / shares.sum()))],),
            "noise": noise.model_copy(
                update={
                    "mains_uv": times(noise.mains_uv, 0.4),
                    "muscle_uv": times(noise.muscle_uv, 0.3),
                    "wander_uv": times(noise.wander_uv, 0.3),
                }
            ),
            "habits": habits.model_copy(
                update={
                    "placement_sd_cm": times(habits.placement_sd_cm, 0.2),
                    "v1_v2_high_cm": times(habits.v1_v2_high_cm, 0.3),
                    "swapped_share": times(habits.swapped_share, 0.5, 1.0),
                    "dead_share": times(habits.dead_share, 0.5, 1.0),
                }
            ),
        }
    )
