"""Files as carts and archives write them, each from one known ECG: what the readers have to give back.

Every writer takes ``digital``, an int array of shape (12, T) in standard order whose limb leads obey Einthoven's
law, and returns the file's bytes. The identifying fields are filled in, so that tests can look for them.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
STORED = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
SECRETS = ("Lovelace", "Augusta", "MRN-1815", "18151210", "1815-12-10", "12-10-1815", "Ward Nine", "Dr Menabrea")
"""Name, number and birth date of the patient in every file; none of it may come out of a reader."""

Digital = NDArray[np.int64]


def digital_ecg(samples: int = 2500, seed: int = 0, peak: int = 300) -> Digital:
    """An ECG-like signal in whole units; I and II are even, so that all limb leads are whole."""
    rng = np.random.default_rng(seed)
    beat = peak * np.exp(-0.5 * ((np.arange(samples) % 400 - 200) / 6.0) ** 2)
    wander = 20 * np.sin(np.arange(samples) / 170)
    rows = {
        n: np.rint(beat * a + wander + rng.normal(0, 3, samples))
        for n, a in zip(STORED, rng.uniform(-1, 1, 8), strict=True)
    }
    one, two = 2 * np.rint(rows["I"] / 2), 2 * np.rint(rows["II"] / 2)
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.stack([*limbs, *(rows[n] for n in STORED[2:])]).astype(np.int64)


# --- XML -----------------------------------------------------------------------------------------------------


def muse_xml(
    digital: Digital, *, fs: int = 500, units: str = "MICROVOLTS", step: float = 4.88, crc: bool = True
) -> bytes:
    def waveform(kind: str, rows: Digital) -> str:
        leads = []
        for name in STORED:
            raw = rows[LEADS.index(name)].astype("<i2").tobytes()
            checksum = f"<LeadDataCRC32>{zlib.crc32(raw) if crc else 1}</LeadDataCRC32>"
            leads.append(
                f"<LeadData><LeadSampleCountTotal>{rows.shape[1]}</LeadSampleCountTotal>"
                f"<LeadAmplitudeUnitsPerBit>{step}</LeadAmplitudeUnitsPerBit><LeadAmplitudeUnits>{units}"
                f"</LeadAmplitudeUnits><LeadID>{name}</LeadID><LeadSampleSize>2</LeadSampleSize>{checksum}"
                f"<WaveFormData>\n{base64.encodebytes(raw).decode()}</WaveFormData></LeadData>"
            )
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{fs}</SampleBase><SampleExponent>0"
            "</SampleExponent><HighPassFilter>5</HighPassFilter><LowPassFilter>150</LowPassFilter>"
            f"<ACFilter>50</ACFilter>{''.join(leads)}</Waveform>"
        )

    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>'
        "<PatientDemographics><PatientID>MRN-1815</PatientID><DateofBirth>12-10-1815</DateofBirth>"
        "<Gender>FEMALE</Gender><PatientLastName>Lovelace</PatientLastName><PatientFirstName>Augusta"
        "</PatientFirstName></PatientDemographics><TestDemographics><AcquisitionDevice>MAC55</AcquisitionDevice>"
        "<LocationName>Ward Nine</LocationName><OverreaderLastName>Dr Menabrea</OverreaderLastName>"
        "<AcquisitionTime>09:03:32</AcquisitionTime><AcquisitionDate>11-27-1852</AcquisitionDate></TestDemographics>"
        "<RestingECGMeasurements><VentricularRate>75</VentricularRate><PRInterval>160</PRInterval><PAxis/>"
        f"</RestingECGMeasurements>{waveform('Median', digital[:, : min(600, digital.shape[1])])}"
        f"{waveform('Rhythm', digital)}</RestingECG>"
    ).encode("latin-1")


def aecg_xml(
    digital: Digital,
    *,
    fs: float = 500,
    scale: tuple[str, str] = ("2.5", "uV"),
    origin: tuple[str, str] = ("0", "uV"),
    increment: tuple[str, str] | None = None,
) -> bytes:
    def sequences(rows: Digital) -> str:
        time, unit = increment or (f"{1 / fs:.9g}", "s")
        parts = [
            '<component><sequence><code code="TIME_ABSOLUTE"/><value xsi:type="GLIST_TS"><head value="18521127090332"/>'
            f'<increment value="{time}" unit="{unit}"/></value></sequence></component>'
        ]
        for name, row in zip(LEADS, rows, strict=True):
            parts.append(
                f'<component><sequence><code code="MDC_ECG_LEAD_{name.upper()}"/><value xsi:type="SLIST_PQ">'
                f'<origin value="{origin[0]}" unit="{origin[1]}"/><scale value="{scale[0]}" unit="{scale[1]}"/>'
                f"<digits>{' '.join(map(str, row))}</digits></value></sequence></component>"
            )
        return f"<component><sequenceSet>{''.join(parts)}</sequenceSet></component>"

    filters = "".join(
        f'<controlVariable><controlVariable><code code="MDC_ECG_CTL_VBL_ATTR_FILTER_{kind}"/>'
        f'<component><controlVariable><code code="MDC_ECG_CTL_VBL_ATTR_FILTER_{what}_FREQ"/>'
        f'<value xsi:type="PQ" value="{hertz}" unit="Hz"/>'
        "</controlVariable></component></controlVariable></controlVariable>"
        for kind, what, hertz in (("HIGH_PASS", "CUTOFF", 0.05), ("LOW_PASS", "CUTOFF", 150), ("NOTCH", "NOTCH", 50))
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><!-- an export --><AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><effectiveTime><low value="18521127090332"/>'
        "</effectiveTime><componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject>"
        '<id extension="MRN-1815"/><subjectDemographicPerson><name>Lovelace Augusta</name>'
        '<administrativeGenderCode code="F"/><birthTime value="18151210"/></subjectDemographicPerson></trialSubject>'
        "</subject></subjectAssignment></componentOf></timepointEvent></componentOf>"
        '<component><series><code code="RHYTHM"/>'
        "<author><seriesAuthor><manufacturedSeriesDevice><manufacturerModelName>ELI250</manufacturerModelName>"
        "</manufacturedSeriesDevice><manufacturerOrganization><name>Mortara</name></manufacturerOrganization>"
        f"</seriesAuthor></author>{filters}<secondaryPerformer><seriesPerformer><assignedPerson>"
        "<name>Dr Menabrea</name>"
        f"</assignedPerson></seriesPerformer></secondaryPerformer>{sequences(digital)}<derivation><derivedSeries>"
        f'<code code="REPRESENTATIVE_BEAT"/>{sequences(digital[:, :400] * 3)}</derivedSeries></derivation>'
        "</series></component></AnnotatedECG>"
    ).encode()


def cardiosoft_xml(digital: Digital, *, fs: int = 500, unit: str = "uVperLsb", step: float = 5) -> bytes:
    def block(name: str, rows: Digital) -> str:
        leads = "".join(
            f'<WaveformData lead="{lead}">{",".join(map(str, row))}\n\t\t</WaveformData>'
            for lead, row in zip(LEADS, rows, strict=True)
        )
        return (
            f'<{name}><NumberOfLeads>12</NumberOfLeads><SampleRate units="Hz">{fs}</SampleRate>'
            f"<ChannelSampleCountTotal>{rows.shape[1]}</ChannelSampleCountTotal>"
            f'<Resolution units="{unit}">{step}</Resolution>{leads}</{name}>'
        )

    return (
        '<?xml version="1.0" encoding="ISO8859-1"?>\n<CardiologyXML><ObservationType>RestECG</ObservationType>'
        "<ObservationDateTime><Hour>9</Hour><Minute>3</Minute><Second>32</Second><Day>27</Day><Month>11</Month>"
        "<Year>1852</Year></ObservationDateTime><ClinicalInfo><DeviceInfo><Desc>CardioSoft</Desc><SoftwareVer>V6.73"
        "</SoftwareVer></DeviceInfo></ClinicalInfo><PatientInfo><PID>MRN-1815</PID><Name><FamilyName>Lovelace"
        "</FamilyName><GivenName>Augusta</GivenName></Name><BirthDateTime><Day>10</Day><Month>12</Month><Year>1815"
        "</Year></BirthDateTime><Gender>FEMALE</Gender></PatientInfo><FilterSetting><Filter50Hz>yes</Filter50Hz>"
        '<LowPass units="Hz">100</LowPass><HighPass units="Hz">0.1</HighPass></FilterSetting>'
        f"<RestingECGMeasurements>{block('MedianSamples', digital[:, :600])}</RestingECGMeasurements>"
        f"{block('StripData', digital)}</CardiologyXML>"
    ).encode("latin-1")


def _lzw(data: bytes, bits: int = 10) -> bytes:
    codes, table, word = [], {bytes([i]): i for i in range(256)}, b""
    for byte in data:
        longer = word + bytes([byte])
        if longer in table:
            word = longer
            continue
        codes.append(table[word])
        if len(table) <= (1 << bits) - 2:
            table[longer] = len(table)
        word = bytes([byte])
    codes += [table[word], (1 << bits) - 1]
    text = "".join(f"{code:0{bits}b}" for code in codes)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _xli(row: Digital) -> bytes:
    """Compress one lead: second differences with a bias of 64, high bytes before low, LZW."""
    row = row.astype(np.int64)
    residual = 2 * row[1:-1] - row[:-2] - row[2:]  # r[1], r[2], ... of x[i] = 2 x[i-1] - x[i-2] - r[i-1]
    words = np.concatenate([row[:2], residual[1:] + 64, [64]]).astype(np.int16).view(np.uint16)
    packed = _lzw(bytes((words >> 8).astype(np.uint8)) + bytes((words & 255).astype(np.uint8)))
    return len(packed).to_bytes(4, "little") + b"\0\0" + int(residual[0]).to_bytes(2, "little", signed=True) + packed


def philips_xml(
    digital: Digital, *, xli: bool = True, version: str = "1.04", encoding: str = "utf-16", age: str = ""
) -> bytes:
    """PhilipsECG; ``digital`` in 5 uV units at 500 Hz. Compressed limb leads are stored as remainders."""
    if xli:
        one, two = digital[0], digital[1]
        three = two - one
        stored = digital.copy()
        stored[2] = three - digital[2]
        stored[3] = -((one + two) // 2) - digital[3]
        stored[4] = (one - three) // 2 - digital[4]
        stored[5] = (two + three) // 2 - digital[5]
        raw = b"".join(_xli(row) for row in stored)
    else:
        raw = digital.astype("<i2").tobytes()
    age = age or "<dateofbirth>1815-12-10</dateofbirth>"
    waves = (
        f'dataencoding="Base64" {"compression" if version != "1.03" else "compressmethod"}='
        f'"{"XLI" if xli else "Uncompressed"}" durationperchannel="{digital.shape[1] * 2}"'
    )
    if version != "1.03":
        waves += f' numberofleads="12" leadlabels="{" ".join(LEADS)}"'
    resolution = "resolution" if version != "1.03" else "signalresolution"
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n<restingecgdata xmlns="http://www3.medical.philips.com">'
        f"<documentinfo><documenttype>{'SierraECG' if version == '1.03' else 'PhilipsECG'}</documenttype>"
        f"<documentversion>{version}</documentversion></documentinfo>"
        '<dataacquisition date="1852-11-27" time="09:03:32">'
        '<machine machineid="1" detaildescription="C.01">PageWriter</machine><acquirer><departmentname>Ward Nine'
        "</departmentname></acquirer><signalcharacteristics><samplingrate>500</samplingrate>"
        f"<{resolution}>5</{resolution}><signalbandwidth>0.05-150</signalbandwidth><acquisitiontype>STD-12"
        "</acquisitiontype><bitspersample>16</bitspersample><numberchannelsallocated>12</numberchannelsallocated>"
        "</signalcharacteristics></dataacquisition><patient><generalpatientdata><patientid>MRN-1815</patientid><name>"
        f'<lastname>Lovelace</lastname><firstname>Augusta</firstname></name><age defaultage="50">{age}</age>'
        f"<sex>Female</sex></generalpatientdata></patient><waveforms><parsedwaveforms {waves}>"
        f"{base64.encodebytes(raw).decode()}</parsedwaveforms></waveforms></restingecgdata>"
    )
    return text.encode(encoding)


# --- binary --------------------------------------------------------------------------------------------------

_SCP_LEADS = (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)
CUSTOM_TABLES = (
    ((1, 1, 1, 0, "0"), (2, 10, 1, 0, "10"), (3, 19, 1, 5, "110"), (3, 3, 0, 2, "111")),
    ((1, 17, 1, 0, "0"), (1, 1, 0, 1, "1")),
)
"""(prefix bits, total bits, mode, base, prefix): two tables, each with a code that switches to the other."""


def _default_code(value: int) -> str:
    if value == 0:
        return "0"
    if abs(value) <= 8:
        return "1" * abs(value) + "0" + ("1" if value < 0 else "0")
    if -128 <= value < 128:
        return "1111111110" + f"{value & 0xFF:08b}"
    return "1111111111" + f"{value & 0xFFFF:016b}"


def _custom_codes(values: list[int]) -> list[str]:
    """Code in the custom tables: small numbers in the first, large ones in the second."""
    out, current = [], 0
    for value in values:
        small = -128 <= value < 128
        if small != (current == 0):
            out.append("111" if current == 0 else "1")
            current = 1 - current
        if current == 1:
            out.append("0" + f"{value & 0xFFFF:016b}")
        elif value == 0:
            out.append("0")
        else:
            out.append("10" + f"{value & 0xFF:08b}")
    return out


def _scp_code(values: list[int], coding: str) -> bytes:
    if coding == "plain":
        return np.array(values).astype("<i2").tobytes()
    text = "".join(_custom_codes(values) if coding == "custom" else map(_default_code, values))
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _differences(row: Digital, order: int) -> list[int]:
    if order == 0:
        return [int(v) for v in row]
    if order == 1:
        return [int(row[0]), *map(int, np.diff(row))]
    return [int(row[0]), int(row[1]), *map(int, np.diff(row, 2))]


def scp_section(number: int, body: bytes) -> bytes:
    body += bytes(len(body) % 2)
    rest = struct.pack("<HIBB6s", number, 16 + len(body), 20, 20, b"SCPECG" if number == 0 else bytes(6)) + body
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def scp_file(sections: dict[int, bytes]) -> bytes:
    """Join section bodies, with pointers and all CRCs."""
    built = {number: scp_section(number, body) for number, body in sections.items()}
    at, pointers = 6 + 16 + 120 + 1, b""
    for number in range(12):
        if number == 0:
            pointers += struct.pack("<HII", 0, 136, 7)
        elif number in built:
            pointers += struct.pack("<HII", number, len(built[number]), at)
            at += len(built[number])
        else:
            pointers += struct.pack("<HII", number, 0, 0)
    body = scp_section(0, pointers) + b"".join(built[number] for number in sorted(built))
    rest = struct.pack("<I", 6 + len(body)) + body
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def scp_tags(**replace: bytes) -> bytes:
    tags = {
        0: b"Lovelace\0",
        1: b"Augusta\0",
        2: b"MRN-1815\0",
        5: struct.pack("<HBB", 1815, 12, 10),
        8: b"\2",
        14: bytes(7) + b"\xffELI25\0" + bytes([20, 0xA0, 0, 0, 1]) + bytes(17) + b"1\0unknown\0soft 1\0impl\0Maker\0",
        20: b"Dr Menabrea\0",
        25: struct.pack("<HBB", 1852, 11, 27),
        26: bytes([9, 3, 32]),
        27: struct.pack("<H", 5),
        28: struct.pack("<H", 150),
        29: b"\2",
    }
    tags |= {int(key[3:]): value for key, value in replace.items()}
    return b"".join(struct.pack("<BH", tag, len(v)) + v for tag, v in tags.items()) + b"\xff\0\0"


def scp(
    digital: Digital,
    *,
    coding: str = "default",
    differences: int = 2,
    nanovolts: int = 2500,
    interval_us: int = 2000,
    beat: Digital | None = None,
    beats_at: tuple[int, ...] = (),
    fiducial: int = 100,
    ratio: int = 1,
    starts: tuple[int, ...] = (1,) * 12,
    measurements: bytes | None = None,
) -> bytes:
    """SCP-ECG. ``beat`` (12, n) is taken off with its fiducial at each of ``beats_at`` (samples from 1)."""
    rows = digital.astype(np.int64).copy()
    n = rows.shape[1]
    flags = 0x64
    sections = {1: scp_tags()} | ({} if measurements is None else {7: measurements})
    if coding == "default":
        sections[2] = struct.pack("<H", 19999)
    elif coding == "custom":
        sections[2] = struct.pack("<H", 2) + b"".join(
            struct.pack("<H", len(table))
            + b"".join(struct.pack("<BBBhI", p, t, m, b, int(code[::-1], 2)) for p, t, m, b, code in table)
            for table in CUSTOM_TABLES
        )
    protected: list[tuple[int, int]] = []
    if beat is not None:
        flags |= 1
        spans = []
        for at in beats_at:
            first = at - fiducial + 1
            low, high = max(1, first), min(n, first + beat.shape[1] - 1)
            rows[:, low - 1 : high] -= beat[:, low - first : high - first + 1]
            spans.append((low, at, high))
            protected.append((max(1, at - 50), min(n, at + 50)))
        body = struct.pack("<HHH", beat.shape[1] * interval_us // 1000, fiducial, len(spans))
        body += b"".join(struct.pack("<HIII", 0, *span) for span in spans)
        sections[4] = body + b"".join(struct.pack("<II", *span) for span in protected)
        sections[5] = _scp_rows(beat, coding, differences, nanovolts, interval_us, 0)
    if ratio > 1:
        kept = []
        for row in rows:
            out: list[float] = []
            at = 0
            for low, high in [*protected, (n + 1, n)]:
                out += [float(np.mean(row[i : min(i + ratio, low - 1)])) for i in range(at, low - 1, ratio)]
                out += list(row[low - 1 : high])
                at = high
            kept.append(np.rint(out).astype(np.int64))
        rows = np.stack(kept)
    sections[3] = bytes([12, flags]) + b"".join(
        struct.pack("<IIB", start, start + n - 1, lead) for start, lead in zip(starts, _SCP_LEADS, strict=True)
    )
    sections[6] = _scp_rows(rows, coding, differences, nanovolts, interval_us * ratio, int(ratio > 1))
    return scp_file(sections)


def _scp_rows(rows: Digital, coding: str, differences: int, nanovolts: int, interval: int, flag: int) -> bytes:
    coded = [_scp_code(_differences(row, differences), coding) for row in rows]
    coded = [data + bytes(len(data) % 2) for data in coded]
    head = struct.pack("<HHBB", nanovolts, interval, differences, flag)
    return head + b"".join(struct.pack("<H", len(data)) for data in coded) + b"".join(coded)


def dicom(
    digital: Digital,
    *,
    fs: float = 500,
    unit: str = "uV",
    sensitivity: float = 2.5,
    correction: float = 1,
    baseline: float = 0,
    scheme: str = "MDC",
    padding: int | None = None,
    age: str = "036Y",
    split: bool = False,
) -> bytes:
    """12-lead ECG Waveform Storage: median beat first, then the rhythm, in two groups of six leads where ``split``."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    def group(rows: Digital, numbers: tuple[int, ...], title: str, original: str) -> Dataset:
        item = Dataset()
        item.MultiplexGroupLabel, item.WaveformOriginality = title, original
        item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = rows.shape
        item.SamplingFrequency, item.WaveformBitsAllocated, item.WaveformSampleInterpretation = fs, 16, "SS"
        channels = []
        for number in numbers:
            channel, source, units = Dataset(), Dataset(), Dataset()
            source.CodeValue = f"2:{number}" if scheme == "MDC" else f"5.6.3-9-{number}"
            source.CodingSchemeDesignator, source.CodeMeaning = scheme, "Lead"
            units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = unit, "UCUM", "unit"
            channel.ChannelSourceSequence, channel.ChannelSensitivityUnitsSequence = [source], [units]
            channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = sensitivity, correction
            channel.ChannelBaseline, channel.FilterLowFrequency, channel.FilterHighFrequency = baseline, 0.05, 150
            channel.WaveformBitsStored = 16
            channels.append(channel)
        item.ChannelDefinitionSequence = channels
        if padding is not None:
            item.add_new(0x5400100A, "OW", np.array([padding]).astype("<i2").tobytes())
        item.WaveformData = np.ascontiguousarray(rows.T).astype("<i2").tobytes()
        return item

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.9.1.1", "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = meta.MediaStorageSOPClassUID, "1.2.3", "ECG"
    data.PatientName, data.PatientID, data.PatientBirthDate = "Lovelace^Augusta", "MRN-1815", "18151210"
    data.PatientSex, data.PatientAge, data.AcquisitionDateTime = "F", age, "18521127090332"
    data.OperatorsName, data.InstitutionalDepartmentName = "Dr Menabrea", "Ward Nine"
    data.Manufacturer, data.ManufacturerModelName = "Maker", "ELI 25"
    groups = [group(digital[:, :400] * 3, _SCP_LEADS, "MEDIAN BEAT", "DERIVED")]
    if split:
        groups += [group(digital[i : i + 6], _SCP_LEADS[i : i + 6], "RHYTHM", "ORIGINAL") for i in (0, 6)]
    else:
        groups.append(group(digital, _SCP_LEADS, "RHYTHM", "ORIGINAL"))
    data.WaveformSequence = groups
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(out, enforce_file_format=True)
    return out.getvalue()


def ishne(digital: Digital, *, fs: int = 500, nanovolts: int = 2500) -> bytes:
    head = struct.pack("<iiiih", 0, digital.shape[1], 522, 522, 1) + b"Augusta".ljust(40, b"\0")
    head += b"Lovelace".ljust(40, b"\0") + b"MRN-1815".ljust(20, b"\0")
    head += struct.pack("<2h12h", 2, 0, 10, 12, 1815, 27, 11, 1852, 28, 11, 1852, 9, 3, 32)
    head += struct.pack("<h12h12h12hh", 12, *range(5, 17), *[0] * 12, *[nanovolts] * 12, 0)
    head += b"H12".ljust(40, b"\0") + struct.pack("<h", fs) + bytes(80 + 80 + 88)
    crc = struct.pack("<H", binascii.crc_hqx(head, 0xFFFF))
    return b"ISHNE1.0" + crc + head + np.ascontiguousarray(digital.T).astype("<i2").tobytes()


def hdf5(path: Path, tracings: NDArray[Any], ids: Any = None, **options: Any) -> Path:
    """Write tracings (exams, samples, 12) as CODE-15% does."""
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("tracings", data=tracings, **options)
        if ids is not None:
            file.create_dataset("exam_id", data=ids)
    return path


def eli_xml(digital: Digital, *, fs: int = 500, units_per_mv: float = 400, offset: int = 0) -> bytes:
    """Mortara's ELI XML, its elements and attributes as open readers of real exports describe them."""

    def data(row: Digital) -> str:
        return base64.b64encode(row.astype("<i2").tobytes()).decode()

    channels = "".join(
        f'<CHANNEL OFFSET="{offset}" BITS="16" FORMAT="SIGNED" UNITS_PER_MV="{units_per_mv:g}" '
        f'DURATION="{digital.shape[1]}" SAMPLE_FREQ="{fs}" NAME="{name}" ENCODING="BASE64" DATA="{data(row)}"/>\n'
        for name, row in zip(LEADS, digital, strict=True)
    )
    cycle = "".join(
        f'<TYPICAL_CYCLE_CHANNEL NAME="{name}" DATA="{data(row[:300] * 2)}"/>'
        for name, row in zip(LEADS, digital, strict=True)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<!-- Generated by ELI Link 4.5 -->\n'
        '<ECG ACQUISITION_TIME="18521127090332" ACQUISITION_TIME_XML="1852-11-27T09:03:32" ROOM="Ward Nine" '
        'TECHNICIAN="Dr Menabrea" VENT_RATE="75"><DEMOGRAPHIC_FIELDS><DEMOGRAPHIC_FIELD ID="2" LABEL="ID:" '
        'VALUE="MRN-1815" UNITS=""/></DEMOGRAPHIC_FIELDS><SUBJECT LAST_NAME="Lovelace" FIRST_NAME="Augusta" '
        'GENDER="Female" ID="MRN-1815" DOB="18151210" DOB_XML="1815-12-10"/><SOURCE TYPE="RESTING" '
        'MANUFACTURER="Mortara Instrument, Inc." MODEL="ELI250c" LOW_PASS_FILTER="150" '
        'ACQUIRING_DEVICE_SW_VERSION="V2.0"/><TYPICAL_CYCLE QT="456" BITS="16" FORMAT="SIGNED" '
        f'UNITS_PER_MV="800" DURATION="300" SAMPLE_FREQ="{fs}" ENCODING="BASE64">{cycle}</TYPICAL_CYCLE>'
        f"{channels}</ECG>"
    ).encode()


def schiller_xml(digital: Digital, *, fs: int = 500, unit: str = "uV", step: float = 2.5, exponent: int = 1) -> bytes:
    """Schiller's XML, its elements as two open readers of real exports describe them."""

    def wave(kind: str, rows: Digital) -> str:
        channels = "".join(
            f"<channel><name>{name.upper()}</name><samplecount>{rows.shape[1]}</samplecount>"
            f"<datastype>COMMASEPARATE</datastype><data>{','.join(map(str, row))},</data></channel>"
            for name, row in zip(LEADS, rows, strict=True)
        )
        return (
            f"<wavedata><type>{kind}</type><resolution><samplerate><value>{fs}</value><exponent>{exponent}"
            f"</exponent></samplerate><yres><unitperbit>{step}</unitperbit><units>{unit}</units></yres></resolution>"
            f"{channels}</wavedata>"
        )

    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<com.xiriuz.sema.xml.schillerEDI.SchillerEDI><patdata>'
        "<id>MRN-1815</id><lastname>Lovelace</lastname><firstname>Augusta</firstname><birthdate>18151210</birthdate>"
        "<gender>FEMALE</gender></patdata><examdescript><startdatetime><date>18521127</date><time>090332</time>"
        "</startdatetime><idu><aquiring_department><name>Ward Nine</name></aquiring_department><aquiring_user>"
        "<name>Dr Menabrea</name></aquiring_user></idu><aquiringdevice><hardware><vendor>SCHILLER</vendor>"
        "<model>AT-102</model></hardware><software><version>1.2</version></software></aquiringdevice></examdescript>"
        f"<eventdata><event>{wave('ECG_AVERAGES', digital[:, :400] * 2)}{wave('ECG_RHYTHMS', digital)}</event>"
        "</eventdata></com.xiriuz.sema.xml.schillerEDI.SchillerEDI>"
    ).encode()


def mfer_tag(tag: int, value: bytes) -> bytes:
    size = len(value)
    length = bytes([size]) if size < 128 else b"\x84" + struct.pack(">I", size)
    return bytes([tag]) + length + value


def mfer(
    digital: Digital, *, fs: int = 500, big: bool = True, block: int | None = None, preamble: bool = True
) -> bytes:
    """MFER by its Part 1: the twelve leads in blocks, resolution and interval as mantissa and exponent."""
    order = ">" if big else "<"
    samples = digital.shape[1]
    block = block or samples
    numbers = (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)
    wave = digital.reshape(12, samples // block, block).transpose(1, 0, 2).astype(f"{order}i2").tobytes()
    half = digital[:, :300].astype(f"{order}i2").tobytes()
    leads = b"".join(
        b"\x3f" + bytes([i, len(tag)]) + tag
        for i, tag in enumerate(mfer_tag(0x09, struct.pack(f"{order}H", number)) for number in numbers)
    )
    common = (
        mfer_tag(0x05, struct.pack(f"{order}I", 12))
        + leads
        + mfer_tag(0x0A, b"\0")
        + mfer_tag(0x0B, b"\0\0" + struct.pack(f"{order}H", fs))
        + mfer_tag(0x0C, b"\0\xf9" + struct.pack(f"{order}H", 25))
        + mfer_tag(0x11, b"HPF=0.05")
        + mfer_tag(0x11, b"LPF=150^Butterworth")
    )
    return (
        (mfer_tag(0x40, b"MFR Standard 12 leads ECG       ") if preamble else b"")
        + mfer_tag(0x01, b"\0" if big else b"\1")
        + mfer_tag(0x17, b"Nihon Kohden^ECG-2550^01-02^12345")
        + mfer_tag(0x81, b"Lovelace^^Augusta")
        + mfer_tag(0x82, b"MRN-1815")
        + mfer_tag(0x83, b"\0" + struct.pack(f"{order}HH", 0, 1815) + bytes([12, 10]))
        + mfer_tag(0x84, b"\2")
        + mfer_tag(0x85, struct.pack(f"{order}H", 1852) + bytes([11, 27, 9, 3, 32]) + bytes(4))
        + mfer_tag(0x16, b"Ward Nine")
        + common
        + mfer_tag(0x08, struct.pack(f"{order}H", 9))
        + mfer_tag(0x04, struct.pack(f"{order}I", 300))
        + mfer_tag(0x06, struct.pack(f"{order}I", 1))
        + mfer_tag(0x1E, half)
        + mfer_tag(0x08, struct.pack(f"{order}H", 1))
        + mfer_tag(0x04, struct.pack(f"{order}I", block))
        + mfer_tag(0x06, struct.pack(f"{order}I", samples // block))
        + mfer_tag(0x1E, wave)
        + b"\x80\0"
    )


def edf(digital: Digital, *, fs: int = 500, unit: str = "uV", per_step: float = 2.5, plus: bool = True) -> bytes:
    """EDF+ (or plain EDF) by its specification, one data record a fifth of a second."""
    per_record = fs // 5
    records = digital.shape[1] // per_record
    fields = [
        ("0", 8),
        ("MRN-1815 F 10-DEC-1815 Lovelace_Augusta" if plus else "Lovelace Augusta MRN-1815", 80),
        ("Startdate 27-NOV-1852 Ward_Nine Dr_Menabrea CartOne" if plus else "Ward Nine", 80),
        ("27.11.52", 8),
        ("09.03.32", 8),
        (str(256 * 13), 8),
        ("EDF+C" if plus else "", 44),
        (str(records), 8),
        ("0.2", 8),
        ("12", 4),
    ]
    header = "".join(text.ljust(size) for text, size in fields)
    low, high = -32768, 32767
    for texts, size in (
        ([f"ECG {name}" for name in LEADS], 16),
        (["AgAgCl"] * 12, 80),
        ([unit] * 12, 8),
        ([f"{low * per_step:g}"] * 12, 8),
        ([f"{high * per_step:.8g}"[:8]] * 12, 8),
        ([str(low)] * 12, 8),
        ([str(high)] * 12, 8),
        (["HP:0.05Hz LP:150Hz N:50Hz"] * 12, 80),
        ([str(per_record)] * 12, 8),
        ([""] * 12, 32),
    ):
        header += "".join(text.ljust(size) for text in texts)
    cut = digital[:, : records * per_record].reshape(12, records, per_record)
    return header.encode("latin-1") + cut.transpose(1, 0, 2).astype("<i2").tobytes()


ALL = {
    "muse.xml": muse_xml,
    "aecg.xml": aecg_xml,
    "cardiosoft.xml": cardiosoft_xml,
    "philips.xml": philips_xml,
    "rhythm.scp": scp,
    "rhythm.dcm": dicom,
    "holter.ecg": ishne,
    "eli.xml": eli_xml,
    "schiller.xml": schiller_xml,
    "ecg.mwf": mfer,
    "ecg.edf": edf,
}
"""A writer for each format that is one file of bytes."""
