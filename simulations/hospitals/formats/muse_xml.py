"""GE MUSE RestingECG XML: eight leads of the rhythm and of the median beat, base64 int16 with a CRC-32 each.

III and the augmented leads are not stored: readers derive them. The only measurements written are the
ventricular rate and the number of beats, which are measured.

Source: the element names of MUSE exports, versions 7 to 9.
"""

from __future__ import annotations

import base64
import zlib
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from simulations.hospitals.formats._beats import median_beat, r_peaks
from simulations.hospitals.formats._facts import HIGH_PASS_HZ, low_pass_hz, uv_per_unit
from simulations.hospitals.formats.header import Header

STORED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
_ROWS = [LEADS.index(lead) for lead in STORED]


def encode(header: Header, units: NDArray[np.int16]) -> bytes:
    """Return the file; see :func:`simulations.vendor.write`."""
    rhythm, fs = units[_ROWS], float(header.device.fs_hz)
    x = rhythm.astype(np.float32)
    peaks = r_peaks(x, fs)
    beat = median_beat(x, peaks, fs)
    waveforms = _waveform(header, "Rhythm", rhythm)
    if beat is not None:
        waveforms = _waveform(header, "Median", np.rint(beat).astype(np.int16)) + waveforms
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE RestingECG SYSTEM "restecg.dtd">
<RestingECG>
   <MuseInfo>
      <MuseVersion>9.0</MuseVersion>
   </MuseInfo>
   <PatientDemographics>
      <PatientID>{escape(header.patient)}</PatientID>
      <PatientAge>{header.age}</PatientAge>
      <AgeUnits>YEARS</AgeUnits>
      <Gender>{"MALE" if header.sex == "M" else "FEMALE"}</Gender>
   </PatientDemographics>
   <TestDemographics>
      <DataType>RESTING</DataType>
      <AcquisitionDevice>{escape(header.device.name)}</AcquisitionDevice>
      <Status>UNCONFIRMED</Status>
      <Priority>NORMAL</Priority>
      <AcquisitionTime>{header.recorded_at:%H:%M:%S}</AcquisitionTime>
      <AcquisitionDate>{header.recorded_at:%m-%d-%Y}</AcquisitionDate>
   </TestDemographics>
{_measurements(peaks, fs)}{waveforms}</RestingECG>
"""
    return text.encode("iso-8859-1")


def _measurements(peaks: NDArray[np.intp], fs: float) -> str:
    if len(peaks) < 2:
        return ""
    rate = 60 * fs * (len(peaks) - 1) / float(peaks[-1] - peaks[0])
    return f"""   <RestingECGMeasurements>
      <VentricularRate>{rate:.0f}</VentricularRate>
      <QRSCount>{len(peaks)}</QRSCount>
      <ECGSampleBase>{fs:.0f}</ECGSampleBase>
      <ECGSampleExponent>0</ECGSampleExponent>
   </RestingECGMeasurements>
"""


def _waveform(header: Header, kind: str, rows: NDArray[np.int16]) -> str:
    """Return one ``Waveform`` element; ``rows`` of shape (8, T)."""
    device = header.device
    step = uv_per_unit(device)
    leads = "".join(_lead(name, row, step) for name, row in zip(STORED, rows, strict=True))
    return f"""   <Waveform>
      <WaveformType>{kind}</WaveformType>
      <WaveformStartTime>0</WaveformStartTime>
      <NumberofLeads>{len(STORED)}</NumberofLeads>
      <SampleType>CONTINUOUS_SAMPLES</SampleType>
      <SampleBase>{device.fs_hz}</SampleBase>
      <SampleExponent>0</SampleExponent>
      <HighPassFilter>{100 * HIGH_PASS_HZ:.0f}</HighPassFilter>
      <LowPassFilter>{low_pass_hz(device)}</LowPassFilter>
      <ACFilter>NONE</ACFilter>
{leads}   </Waveform>
"""


def _lead(name: str, row: NDArray[np.int16], step: str) -> str:
    raw = np.ascontiguousarray(row, dtype="<i2").tobytes()
    return f"""      <LeadData>
         <LeadByteCountTotal>{len(raw)}</LeadByteCountTotal>
         <LeadTimeOffset>0</LeadTimeOffset>
         <LeadSampleCountTotal>{len(row)}</LeadSampleCountTotal>
         <LeadAmplitudeUnitsPerBit>{step}</LeadAmplitudeUnitsPerBit>
         <LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>
         <LeadHighLimit>32767</LeadHighLimit>
         <LeadLowLimit>-32768</LeadLowLimit>
         <LeadID>{name}</LeadID>
         <LeadOffsetFirstSample>0</LeadOffsetFirstSample>
         <FirstSampleBaseline>0</FirstSampleBaseline>
         <LeadSampleSize>2</LeadSampleSize>
         <LeadOff>FALSE</LeadOff>
         <BaselineSway>FALSE</BaselineSway>
         <LeadDataCRC32>{zlib.crc32(raw)}</LeadDataCRC32>
         <WaveFormData>
{base64.encodebytes(raw).decode("ascii")}         </WaveFormData>
      </LeadData>
"""
