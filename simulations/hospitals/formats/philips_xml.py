"""PhilipsECG 1.04 as PageWriter carts export it: UTF-16, XLI waveforms, a calibration pulse after the signal.

Source: the schema and samples of https://github.com/sixlettervariables/sierra-ecg-tools.
"""

from __future__ import annotations

import base64
import codecs
from functools import lru_cache
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from ecgshared.errors import EcgReadError
from simulations.hospitals.formats._facts import HIGH_PASS_HZ, MANUFACTURER, identity, low_pass_hz, uv_per_unit
from simulations.hospitals.formats.header import Header
from simulations.hospitals.formats.xli import encode_channel

CHANNELS = 16
"""Carts store sixteen channels, four of them empty but for the pulse."""

PULSE_FROM_S, PULSE_TO_S = 0.7, 0.9
"""Where the square of 1 mV stands in the calibration second."""

_NAMESPACE = "http://www3.medical.philips.com"


def encode(header: Header, units: NDArray[np.int16]) -> bytes:
    """Return the file; see :func:`simulations.vendor.write`."""
    device, samples = header.device, units.shape[1]
    fs = device.fs_hz
    level = min(round(device.adc_units_per_mv), np.iinfo(np.int16).max)
    whole = np.concatenate([units.astype(np.int32), np.tile(_pulse(fs, level), (len(LEADS), 1))], axis=1)
    rows = _residuals(whole)
    if np.abs(rows).max() > np.iinfo(np.int16).max:
        raise EcgReadError(
            "the limb leads do not follow from I and II", where=header.record, remedy="derive them, as carts do"
        )
    # Of limb leads that follow from I and II only the pulse is left.
    left, pulses = np.abs(rows[:, :samples]).max(axis=1) > 0, rows[:, samples + round(PULSE_FROM_S * fs)]
    data = b"".join(
        encode_channel(row) if any_left else _silent_channel(samples, fs, int(pulse))
        for row, any_left, pulse in zip(rows.astype(np.int16), left, pulses, strict=True)
    )
    data += (CHANNELS - len(LEADS)) * _silent_channel(samples, fs, level)
    leads, name = " ".join(LEADS), f"{identity(header, units)}.xml"
    milliseconds = -(-1000 * (samples + fs) // fs)
    resolution, low_pass = uv_per_unit(device), low_pass_hz(device)
    at = f'date="{header.recorded_at:%Y-%m-%d}" time="{header.recorded_at:%H:%M:%S}"'
    text = f"""<?xml version="1.0" encoding="utf-16"?>
<restingecgdata xmlns="{_NAMESPACE}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="{_NAMESPACE} PhilipsECG.xsd" status="Unconfirmed" lang="en" locale="US">
  <documentinfo>
    <documentname>{name}</documentname>
    <documenttype>PhilipsECG</documenttype>
    <documentversion>1.04</documentversion>
  </documentinfo>
  <reportinfo {at}>
    <reportlabel>STD 12 LEAD</reportlabel>
    <reportdescription>Standard 12 Lead Report</reportdescription>
    <reportformat extendedmeasflag="False" printtruncationflag="False">
      <interpretationformat>None</interpretationformat>
      <waveformformat leadsequence="Standard" timesequence="Simultaneous">
        <mainwaveformformat nrow="3" ncolumn="4">{leads}</mainwaveformformat>
        <rhythmwaveformformat nrhythm="1">II</rhythmwaveformformat>
      </waveformformat>
    </reportformat>
    <reportgain>
      <amplitudegain unit="mm/mv">
        <overallgain>10.00</overallgain>
      </amplitudegain>
      <timegain unit="mm/s">25.00</timegain>
    </reportgain>
    <reportbandwidth>
      <highpassfiltersetting>{HIGH_PASS_HZ}</highpassfiltersetting>
      <lowpassfiltersetting>{low_pass}</lowpassfiltersetting>
      <notchfiltersetting>None</notchfiltersetting>
      <notchharmonicssetting>None</notchharmonicssetting>
      <artifactfilterflag>False</artifactfilterflag>
      <hysteresisfilterflag>False</hysteresisfilterflag>
    </reportbandwidth>
  </reportinfo>
  <dataacquisition {at} statflag="False">
    <machine machineid="" detaildescription={quoteattr(f"{MANUFACTURER}:{device.name}")}>{escape(device.name)}</machine>
    <acquirer/>
    <signalcharacteristics>
      <samplingrate>{fs}</samplingrate>
      <resolution>{resolution}</resolution>
      <hipass>{HIGH_PASS_HZ}</hipass>
      <lowpass>{low_pass}</lowpass>
      <notchfiltered>False</notchfiltered>
      <notchfilterfreqs/>
      <acquisitiontype>10-WIRE</acquisitiontype>
      <bitspersample>16</bitspersample>
      <signaloffset>0</signaloffset>
      <signalsigned>True</signalsigned>
      <numberchannelsallocated>{len(LEADS)}</numberchannelsallocated>
      <numberchannelsvalid>{len(LEADS)}</numberchannelsvalid>
      <electrodeplacement>STD</electrodeplacement>
    </signalcharacteristics>
  </dataacquisition>
  <patient criteriaversionforpatientdata="0A">
    <generalpatientdata>
      <patientid>{escape(header.patient)}</patientid>
      <name>
        <lastname/>
        <firstname/>
        <middlename/>
      </name>
      <age>
        <years>{header.age}</years>
      </age>
      <pacestatus>Unknown</pacestatus>
      <sex>{"Male" if header.sex == "M" else "Female"}</sex>
    </generalpatientdata>
  </patient>
  <waveforms>
    <parsedwaveforms dataencoding="Base64" compression="XLI" numberofleads="{len(LEADS)}" leadlabels="{leads}" \
durationperchannel="{milliseconds}" samplespersecond="{fs}" resolution="{resolution}" signaloffset="0" \
signalsigned="True" bitspersample="16" hipass="{HIGH_PASS_HZ}" lowpass="{low_pass}" notchfiltered="False" \
notchfilterfreqs="0" donotfilter="False">{base64.b64encode(data).decode("ascii")}</parsedwaveforms>
  </waveforms>
</restingecgdata>
"""
    return codecs.BOM_UTF16_LE + text.replace("\n", "\r\n").encode("utf-16-le")


def _pulse(fs: int, level: int) -> NDArray[np.int32]:
    """Return the calibration second, shape = (fs,)."""
    second = np.zeros(fs, dtype=np.int32)
    second[round(PULSE_FROM_S * fs) : round(PULSE_TO_S * fs)] = level
    return second


def _residuals(x: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return what is stored: III, aVR, aVL and aVF as their differences from what I and II predict.

    Division rounds down, as the decoder's does.
    """
    one, two, three, right, left, foot = x[:6]
    stored = x.copy()
    stored[2] = two - one - three
    stored[3] = -right - ((one + two) >> 1)
    stored[4] = ((one - three) >> 1) - left
    stored[5] = ((two + three) >> 1) - foot
    return stored


@lru_cache(maxsize=32)
def _silent_channel(samples: int, fs: int, level: int) -> bytes:
    silent = np.zeros(samples + fs, dtype=np.int16)
    silent[samples:] = _pulse(fs, level)
    return encode_channel(silent)
