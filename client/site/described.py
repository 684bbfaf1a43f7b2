"""What a site says of recordings that are plain arrays: their files hold numbers and no word about them."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import PurePath
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ecgshared.config import Config
from ecgshared.ecg.leads import LEADS, standard_name

ENDINGS = (".npy", ".npz", ".csv", ".tsv", ".txt", ".h5", ".hdf5", ".parquet", ".pq", ".mat", ".bin", ".dat", ".raw")
"""Endings that a description may be about."""

Axis = Literal["exams", "leads", "samples"]


class RawConfig(Config):
    """How numbers lie in a file that is nothing but numbers."""

    type: Literal["int8", "uint8", "int16", "uint16", "int32", "float32", "float64"] | None = Field(
        default=None, description="of one number; null where the file has a format of its own"
    )
    big_endian: bool = Field(default=False, description="whether the high byte comes first")
    offset_bytes: int = Field(default=0, ge=0, le=1 << 24, description="bytes before the first number")
    samples: int | None = Field(
        default=None, ge=1, le=2_000_000, description="of each lead; null takes all that follow the offset"
    )


class DescribedConfig(Config):
    """Recordings that are plain arrays (NumPy, CSV, HDF5, Parquet, MATLAB, raw numbers), as the site describes them."""

    files: str | tuple[str, ...] = Field(
        default=(), description="glob, or several, of the names of the files that this is about, such as '*.npy'"
    )
    axes: tuple[Axis, ...] = Field(
        default=("leads", "samples"),
        description="order of the axes: [leads, samples] or [samples, leads]; exams first where a file holds many",
    )
    leads: tuple[str, ...] = Field(default=LEADS, description="the leads in the array's order; others by any name")
    fs_hz: float | None = Field(
        default=None, ge=20, le=32_000, description="samples per second; null where the table gives it as fs_hz"
    )
    unit: Literal["V", "mV", "uV", "nV"] = Field(default="mV", description="of the numbers divided by numbers_per_unit")
    numbers_per_unit: float = Field(default=1.0, gt=0, le=1e12, description="200 with mV: 200 stand for 1 mV")
    zero: float = Field(default=0.0, description="the number that stands for 0 V")
    missing: float | None = Field(default=None, description="the number that stands for no sample; NaN always does")
    padded: bool = Field(default=False, description="whether zeros before and after the recording are padding")
    dataset: str | None = Field(
        default=None, description="of an HDF5, .npz or .mat file; null takes the only one that has these axes"
    )
    ids: str | None = Field(default=None, description="dataset of the exams' ids; null counts the exams from 0")
    separator: str | None = Field(default=None, min_length=1, max_length=1, description="of a text file; null guesses")
    raw: RawConfig = Field(default=RawConfig(), description="for files that are nothing but numbers")

    @field_validator("leads")
    @classmethod
    def _some_are_known(cls, leads: tuple[str, ...]) -> tuple[str, ...]:
        known = [name for name in map(standard_name, leads) if name is not None]
        if not known:
            raise ValueError(f"names none of {', '.join(LEADS)}")
        twice = sorted({name for name in known if known.count(name) > 1})
        if twice:
            raise ValueError(f"names {', '.join(twice)} twice")
        return leads

    @model_validator(mode="after")
    def _axes_make_an_array(self) -> DescribedConfig:
        if sorted(self.axes) not in (["leads", "samples"], ["exams", "leads", "samples"]):
            raise ValueError("axes must hold leads and samples once each, and exams once or not at all")
        if "exams" in self.axes and (self.axes[0] != "exams" or self.raw.type is not None):
            raise ValueError("exams must be the first axis, and have no place in a raw file")
        return self

    @property
    def exams(self) -> bool:
        """Whether a file holds many exams."""
        return "exams" in self.axes

    def covers(self, path: PurePath) -> bool:
        """Tell whether the description is about a file, or about an exam of one (``file#exam``)."""
        globs = (self.files,) if isinstance(self.files, str) else self.files
        name, _, _ = path.name.partition("#")
        return any(fnmatch(name, glob) or fnmatch(path.name, glob) for glob in globs)
