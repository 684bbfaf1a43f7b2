"""DICOM 12-lead ECG Waveform Storage: one multiplex group of twelve channels, Explicit VR Little Endian.

Source: DICOM PS3.3 A.34.3 (the object and its limits) and C.10.9 (waveform), PS3.16 CID 3001 (ECG leads).
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from ecgshared.errors import ConfigError
from simulations.hospitals.formats._facts import HIGH_PASS_HZ, MANUFACTURER, identity, low_pass_hz, uv_per_unit
from simulations.hospitals.formats.header import Header
from simulations.patients.scenario import DeviceConfig

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.9.1.1"
FS_HZ, MAX_SAMPLES = (200, 1000), 16384
"""Bounds of the 12-lead object; longer recordings belong in General ECG objects."""

LEAD_NUMBERS = dict(zip(LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))
"""Lead numbers of ISO/IEEE 11073-10102: code ``2:n`` of scheme MDC."""

IMPLEMENTATION_UID = "2.25.148048395317905286049512806403271353874"
"""Of this writer; pydicom's own would change with its version, and the bytes with it."""


def encode(header: Header, units: NDArray[np.int16]) -> bytes:
    """Return the file; see :func:`simulations.vendor.write`.

    Raises
    ------
    ConfigError : longer or of another rate than a 12-lead ECG object may be.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.filewriter import dcmwrite
    from pydicom.sequence import Sequence
    from pydicom.uid import UID, ExplicitVRLittleEndian

    device, samples = header.device, units.shape[1]
    if not FS_HZ[0] <= device.fs_hz <= FS_HZ[1] or not 0 < samples <= MAX_SAMPLES:
        raise ConfigError(
            "a DICOM 12-lead ECG cannot hold this recording",
            where=header.record,
            value=f"{samples} samples at {device.fs_hz} Hz",
            allowed=f"up to {MAX_SAMPLES} samples at {FS_HZ[0]} to {FS_HZ[1]} Hz",
            remedy="set fewer `seconds`, or another format",
        )
    on, at = f"{header.recorded_at:%Y%m%d}", f"{header.recorded_at:%H%M%S}"
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = SOP_CLASS
    ds.SOPInstanceUID = f"2.25.{identity(header, units).int}"
    ds.StudyDate = ds.ContentDate = on
    ds.StudyTime = ds.ContentTime = at
    ds.AcquisitionDateTime = on + at
    ds.AccessionNumber = ""
    ds.Modality = "ECG"
    ds.Manufacturer = MANUFACTURER
    ds.ReferringPhysicianName = ""
    # A backslash separates values in DICOM.
    ds.ManufacturerModelName = device.name.replace("\\", "/")
    # Name and birth date are of type 2 in the object's definition: present, and empty.
    ds.PatientName = ""
    ds.PatientID = header.patient.replace("\\", "/")
    ds.PatientBirthDate = ""
    ds.PatientSex = "M" if header.sex == "M" else "F"
    ds.PatientAge = f"{header.age:03d}Y"
    ds.StudyInstanceUID = f"2.25.{identity(header, units, 'study').int}"
    ds.SeriesInstanceUID = f"2.25.{identity(header, units, 'series').int}"
    ds.StudyID = ""
    ds.SeriesNumber = "1"
    ds.InstanceNumber = "1"
    ds.AcquisitionContextSequence = Sequence()
    group = Dataset()
    group.MultiplexGroupTimeOffset = "0"
    group.WaveformOriginality = "ORIGINAL"
    group.NumberOfWaveformChannels = len(LEADS)
    group.NumberOfWaveformSamples = samples
    group.SamplingFrequency = str(device.fs_hz)
    group.MultiplexGroupLabel = "RHYTHM"
    group.ChannelDefinitionSequence = _channels(device)
    group.WaveformBitsAllocated = 16
    group.WaveformSampleInterpretation = "SS"
    group.add_new(0x54001010, "OW", np.ascontiguousarray(units.T, dtype="<i2").tobytes())
    ds.WaveformSequence = Sequence([group])
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(SOP_CLASS)
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = "ECGFED"
    ds.file_meta = meta
    stream = io.BytesIO()
    dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


@lru_cache(maxsize=8)
def _channels(device: DeviceConfig) -> Any:
    """Return the channel definitions, the same for every recording of a device."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    items = []
    for lead, number in LEAD_NUMBERS.items():
        channel = Dataset()
        channel.ChannelSourceSequence = Sequence([_code(f"2:{number}", "MDC", f"Lead {lead}")])
        channel.ChannelSensitivity = uv_per_unit(device)
        channel.ChannelSensitivityUnitsSequence = Sequence([_code("uV", "UCUM", "microvolt")])
        channel.ChannelSensitivityCorrectionFactor = "1"
        channel.ChannelBaseline = "0"
        channel.ChannelSampleSkew = "0"
        channel.WaveformBitsStored = 16
        channel.FilterLowFrequency = f"{HIGH_PASS_HZ}"
        channel.FilterHighFrequency = low_pass_hz(device)
        items.append(channel)
    return Sequence(items)


def _code(value: str, scheme: str, meaning: str) -> Any:
    from pydicom.dataset import Dataset

    code = Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = scheme
    code.CodeMeaning = meaning
    return code
