"""HL7 annotated ECG (aECG): one rhythm series of twelve leads over an absolute time axis.

Source: HL7 aECG Implementation Guide (Brown and Badilini, 2005), PORT_MT020001; MDC lead codes of ISO/IEEE
11073-10102.
"""

from __future__ import annotations

from datetime import timedelta
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from ecgshared.ecg.leads import LEADS
from simulations.hospitals.formats._facts import HIGH_PASS_HZ, MANUFACTURER, identity, low_pass_hz, uv_per_unit
from simulations.hospitals.formats.header import Header

ACT_CODE, MDC, CPT_4, LOINC, GENDER = (
    "2.16.840.1.113883.5.4",
    "2.16.840.1.113883.6.24",
    "2.16.840.1.113883.6.12",
    "2.16.840.1.113883.6.1",
    "2.16.840.1.113883.5.1",
)
"""Code systems."""

REPORTED_AGE = "21612-7"

_FILTER = "MDC_ECG_CTL_VBL_ATTR_FILTER"


def encode(header: Header, units: NDArray[np.int16]) -> bytes:
    """Return the file; see :func:`simulations.vendor.write`."""
    device, start = header.device, header.recorded_at
    end = start + timedelta(seconds=units.shape[1] / device.fs_hz)
    low, high = f"{start:%Y%m%d%H%M%S}", f"{end:%Y%m%d%H%M%S}"
    step = uv_per_unit(device)
    sequences = "".join(_sequence(lead, row, step) for lead, row in zip(LEADS, units.tolist(), strict=True))
    text = f"""<?xml version="1.0" encoding="utf-8"?>
<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:voc="urn:hl7-org:v3/voc" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" type="Observation">
  <id root="{identity(header, units)}"/>
  <code code="93000" codeSystem="{CPT_4}" codeSystemName="CPT-4"/>
  <effectiveTime>
    <low value="{low}" inclusive="true"/>
    <high value="{high}" inclusive="false"/>
  </effectiveTime>
  <componentOf>
    <timepointEvent>
      <componentOf>
        <subjectAssignment>
          <subject>
            <trialSubject>
              <id root="{identity(header, units, "subject")}" extension={quoteattr(header.patient)}/>
              <subjectDemographicPerson>
                <administrativeGenderCode code="{"M" if header.sex == "M" else "F"}" codeSystem="{GENDER}"/>
              </subjectDemographicPerson>
            </trialSubject>
          </subject>
          <componentOf>
            <clinicalTrial>
              <id root="{identity(header, units, "trial")}"/>
            </clinicalTrial>
          </componentOf>
        </subjectAssignment>
      </componentOf>
    </timepointEvent>
  </componentOf>
  <controlVariable>
    <relatedObservation>
      <code code="{REPORTED_AGE}" codeSystem="{LOINC}" codeSystemName="LOINC" displayName="Reported Age"/>
      <value xsi:type="PQ" value="{header.age}" unit="a"/>
    </relatedObservation>
  </controlVariable>
  <component>
    <series>
      <id root="{identity(header, units, "rhythm")}"/>
      <code code="RHYTHM" codeSystem="{ACT_CODE}" codeSystemName="ActCode" displayName="Rhythm Waveforms"/>
      <effectiveTime>
        <low value="{low}" inclusive="true"/>
        <high value="{high}" inclusive="false"/>
      </effectiveTime>
      <author>
        <seriesAuthor>
          <manufacturedSeriesDevice>
            <manufacturerModelName>{escape(device.name)}</manufacturerModelName>
          </manufacturedSeriesDevice>
          <manufacturerOrganization>
            <name>{MANUFACTURER}</name>
          </manufacturerOrganization>
        </seriesAuthor>
      </author>
{_filter("LOW_PASS", "Low Pass Filter", low_pass_hz(device))}\
{_filter("HIGH_PASS", "High Pass Filter", f"{HIGH_PASS_HZ}")}\
      <component>
        <sequenceSet>
          <component>
            <sequence>
              <code code="TIME_ABSOLUTE" codeSystem="{ACT_CODE}" codeSystemName="ActCode" displayName="Absolute Time"/>
              <value xsi:type="GLIST_TS">
                <head value="{low}.000"/>
                <increment value="{1 / device.fs_hz:.10g}" unit="s"/>
              </value>
            </sequence>
          </component>
{sequences}        </sequenceSet>
      </component>
    </series>
  </component>
</AnnotatedECG>
"""
    return text.encode("utf-8")


def _filter(kind: str, name: str, hertz: str) -> str:
    return f"""      <controlVariable>
        <controlVariable>
          <code code="{_FILTER}_{kind}" codeSystem="{MDC}" codeSystemName="MDC" displayName="{name}"/>
          <component>
            <controlVariable>
              <code code="{_FILTER}_CUTOFF_FREQ" codeSystem="{MDC}" codeSystemName="MDC" \
displayName="Cutoff Frequency"/>
              <value xsi:type="PQ" value="{hertz}" unit="Hz"/>
            </controlVariable>
          </component>
        </controlVariable>
      </controlVariable>
"""


def _sequence(lead: str, samples: list[int], step: str) -> str:
    return f"""          <component>
            <sequence>
              <code code="MDC_ECG_LEAD_{lead.upper()}" codeSystem="{MDC}" codeSystemName="MDC"/>
              <value xsi:type="SLIST_PQ">
                <origin value="0" unit="uV"/>
                <scale value="{step}" unit="uV"/>
                <digits>{" ".join(map(str, samples))}</digits>
              </value>
            </sequence>
          </component>
"""
