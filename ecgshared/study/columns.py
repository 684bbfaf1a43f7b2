"""The standard columns of a cohort table: one row per ECG. A site's YAML maps its own columns to these names.

Units and codings here are what every later step sees; reading local spellings is the client's task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["id", "date", "number", "sex", "flag", "text", "code"]


@dataclass(frozen=True)
class Column:
    """One standard column: how it is read and what it means."""

    name: str
    kind: Kind
    meaning: str
    low: float | None = None
    high: float | None = None
    unit: str = ""

    @property
    def allowed(self) -> str:
        """What a cell may hold, in words."""
        if self.kind == "number":
            return f"{self.low:g} to {self.high:g}"
        return {
            "id": "any text; not a number in scientific notation",
            "date": "2020-12-31, 31.12.2020, 31/12/2020, 31-Dec-2020, 20201231, Excel's days; with or without a time",
            "sex": "F or M, in words of most languages; unknown and other are empty; numbers through `values`",
            "flag": "1 or 0, yes or no, true or false, in most languages",
            "code": "ICD-10: I21.9, I219, I21.-; several with commas or blanks between",
            "text": "any text",
        }[self.kind]


_AXES = {"left": "to the left", "posterior": "to the back", "superior": "upwards"}
_ELECTRODES = ("LA", "RA", "LL", "RL", "V1", "V2", "V3", "V4", "V5", "V6")


def _anatomy() -> tuple[Column, ...]:
    """What imaging and a tape measure give; positions from a body's origin on the spine's front, as in a lead field."""
    heart = (
        *(
            Column(f"heart_{axis}_cm", "number", f"centre of the ventricles, cm {to}", -30, 30, "cm")
            for axis, to in _AXES.items()
        ),
        Column(
            "heart_frontal_deg", "number", "turn in the frontal plane, degrees; positive: apex down", -180, 180, "deg"
        ),
        Column(
            "heart_vertical_deg",
            "number",
            "turn about the body's vertical, degrees; positive: apex to the back",
            -180,
            180,
            "deg",
        ),
        Column("heart_tilt_deg", "number", "turn about the left-right axis, degrees", -180, 180, "deg"),
        Column("lv_mass_g", "number", "mass of the left ventricle, g", 10, 800, "g"),
        Column("lv_edv_ml", "number", "end-diastolic volume of the left ventricle, ml", 10, 900, "ml"),
        Column("lv_esv_ml", "number", "end-systolic volume of the left ventricle, ml", 1, 850, "ml"),
    )
    electrodes = (
        Column(f"electrode_{name}_{axis}_cm", "number", f"electrode {name}, cm {to}", -100, 100, "cm")
        for name in _ELECTRODES
        for axis, to in _AXES.items()
    )
    return (*heart, *electrodes)


ANATOMY: tuple[Column, ...] = _anatomy()
"""Where the heart lies and how it is turned, volumes of the left ventricle, where the ten electrodes sat."""

STANDARD_COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("ecg_id", "id", "identifier of the ECG, unique in the table"),
        Column("patient_id", "id", "identifier of the patient; the unit of splits, clustering and privacy"),
        Column("file", "text", "path of the recording, relative to the records folder"),
        Column("recorded_at", "date", "date (and time) of the ECG"),
        Column("age", "number", "age at the ECG, years; 300 is read as over 89", 0, 130, "years"),
        Column("sex", "sex", "F or M"),
        Column("birth_date", "date", "only to derive age; never kept"),
        Column("device", "text", "recording device"),
        Column("fs_hz", "number", "samples per second, for recordings whose files do not state it", 20, 32_000, "Hz"),
        Column("death_date", "date", "date of death; empty while alive"),
        Column("death_cause", "code", "underlying cause of death, ICD-10"),
        Column("death_in_hospital", "flag", "1 if death happened in hospital"),
        Column("admission_time", "date", "start of the hospital stay in which the patient died"),
        Column("vfvt_date", "date", "first ventricular fibrillation or tachycardia after the ECG"),
        Column("vf_date", "date", "first ventricular fibrillation after the ECG, where it is kept apart (I49.0)"),
        Column("vt_date", "date", "first ventricular tachycardia after the ECG, where it is kept apart (I47.2)"),
        Column("ecg_vt", "flag", "1 if this ECG's statement says ventricular tachycardia"),
        Column("mi_date", "date", "first acute myocardial infarction after the ECG"),
        Column("icd_date", "date", "implantation of a cardioverter defibrillator"),
        Column("index_date", "date", "the event an ECG must precede (case-control series)"),
        Column("last_encounter", "date", "last date the patient was seen alive"),
        Column("data_end", "date", "date to which the site's outcome registers are complete"),
        Column(
            "lvef", "number", "left ventricular ejection fraction, fraction 0..1 (35 is read as 0.35)", 0, 1, "fraction"
        ),
        Column("bmi", "number", "body mass index, kg/m2", 8, 120, "kg/m2"),
        Column("heart_failure", "flag", "1 if heart failure is known at the ECG"),
        Column("diabetes", "flag", "1 if diabetes is known at the ECG"),
        Column("hypertension", "flag", "1 if hypertension is known at the ECG"),
        Column("previous_mi", "flag", "1 if a myocardial infarction before the ECG is known"),
        Column("ecg_age", "number", "age a network reads from the ECG, years", 0, 150, "years"),
        *ANATOMY,
    )
}
"""Any other column a study needs (a binary label, say) is mapped under the site's ``labels:``."""

COVARIATES: tuple[str, ...] = (
    *("lvef", "bmi", "heart_failure", "diabetes", "hypertension", "previous_mi", "ecg_age"),
    *(column.name for column in ANATOMY),
)
"""What a study may name as ``covariates``, beside age and sex."""

FLAGS: frozenset[str] = frozenset({"male", *(c.name for c in STANDARD_COLUMNS.values() if c.kind == "flag")})
"""Yes/no variables: 1, 0 or unknown."""
