"""``ecgfed read PATH``: header, quality and the 12-lead sheet of one recording."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ecgshared.ecg.quality import Decision
    from ecgshared.ecg.record import EcgRecord, Finding

app = typer.Typer(add_completion=False)


@app.command()
def read(
    path: Annotated[Path, typer.Argument(help="the recording; for WFDB its .hea, .dat, .mat or bare name")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="write the 12-lead sheet here (.png, .pdf, .svg)")] = None,
    features: Annotated[bool, typer.Option("--features", help="measure intervals, axes and amplitudes")] = False,
    site: Annotated[
        Path | None, typer.Option("--site", help="site file, whose `described:` says what plain arrays mean")
    ] = None,
    fs_hz: Annotated[
        float | None, typer.Option("--fs-hz", min=20, max=32_000, help="rate of a file that does not state its own")
    ] = None,
) -> None:
    """Show a recording's header and quality, and draw it at 25 mm/s and 10 mm/mV."""
    from client.readers import read as read_record
    from client.site.settings import QualityPolicy, load_site
    from ecgshared.ecg.features import QT_METHOD
    from ecgshared.ecg.quality import assess, decide

    settings = None if site is None else load_site(site)
    record = read_record(path, None if settings is None else settings.described, fs_hz)
    findings = assess(record)
    policy = QualityPolicy() if settings is None else settings.quality
    action = decide(findings, policy.actions, policy.default, most_empty=policy.most_empty)
    if plot is not None:
        _save_sheet(record, path, plot)
    measured, note = _measured(record) if features else (None, "")
    if as_json:
        facts = summary(path, record, findings, action)
        if measured is not None:
            facts["features"] = measured
            facts["features_note"] = note
            facts["qt_method"] = QT_METHOD
        typer.echo(json.dumps(facts, indent=2, allow_nan=False))
    else:
        _show(path, record, findings, action, plot, settings is not None)
        if measured is not None:
            _show_features(measured, note)


def summary(path: Path, record: EcgRecord, findings: tuple[Finding, ...], action: Decision) -> dict[str, Any]:
    """Return what the command prints as plain values; a lead without signal has no amplitudes."""
    import numpy as np

    from ecgshared.ecg.leads import LEADS

    leads: dict[str, dict[str, float] | None] = {}
    for lead, row in zip(LEADS, record.p_signal, strict=True):
        values = row[np.isfinite(row)]
        leads[lead] = (
            {"min_mv": round(float(values.min()), 4), "max_mv": round(float(values.max()), 4)} if values.size else None
        )
    return {
        "path": str(path),
        "format": record.source_format,
        "fs_hz": record.fs,
        "samples": record.p_signal.shape[1],
        "seconds": record.seconds,
        "age_years": record.age_years,
        "age_capped": record.age_capped,
        "sex": record.sex,
        "recorded_at": None if record.recorded_at is None else record.recorded_at.isoformat(),
        "device": record.device,
        "manufacturer": record.manufacturer,
        "filters": record.filters,
        "adc_units_per_mv": record.adc_units_per_mv,
        "leads": leads,
        "findings": [
            {"code": f.code, "lead": f.lead, "value": _number(f.value), "message": f.message} for f in findings
        ],
        "action_by_default": action,
    }


def _measured(record: EcgRecord) -> tuple[dict[str, float | None], str]:
    """Return the measurements by name, and what is to be said of them."""
    import numpy as np

    from ecgshared.ecg.features import NAMES, features_of

    found = features_of(record)
    row = np.full(len(NAMES), np.nan) if found is None else found.row()
    note = "not measured: no two whole beats show" if found is None else found.note
    return {name: _number(round(float(value), 4)) for name, value in zip(NAMES, row, strict=True)}, note


def _show_features(measured: dict[str, float | None], note: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from ecgshared.ecg.features import AMPLITUDES, QT_METHOD
    from ecgshared.ecg.leads import LEADS

    def shown(name: str, digits: int = 0, unit: str = "") -> str:
        value = measured[name]
        return "-" if value is None else f"{value:.{digits}f}{unit}"

    console = Console()
    if all(measured[f"r_{lead}_mv"] is None for lead in LEADS):
        rate = "" if measured["rate_bpm"] is None else f"rate {shown('rate_bpm')} per minute; all else "
        console.print(rate + note)
        return
    console.print(
        f"rate {shown('rate_bpm', 0, ' per minute')}, PR {shown('pr_ms', 0, ' ms')}, QRS {shown('qrs_ms', 0, ' ms')}, "
        f"QT {shown('qt_ms', 0, ' ms')}, QTc {shown('qtc_bazett_ms', 0, ' ms')} (Bazett), "
        f"{shown('qtc_fridericia_ms', 0, ' ms')} (Fridericia)"
    )
    console.print(f"QT: {QT_METHOD}")
    if note:
        console.print(f"note: {note}")
    axes = ", ".join(f"{name} {shown(f'{name.lower()}_axis_deg')}" for name in ("P", "QRS", "T"))
    console.print(f"frontal axes, degrees: {axes}")
    # A row a lead: twelve columns of numbers would not fit into a terminal of 80.
    table = Table("lead", title="Amplitudes of the median beat, mV")
    for wave in AMPLITUDES:
        table.add_column(wave.upper(), justify="right")
    for lead in LEADS:
        table.add_row(lead, *(shown(f"{wave}_{lead}_mv", 2) for wave in AMPLITUDES))
    console.print(table)


def _number(value: float | None) -> float | None:
    import math

    return value if value is not None and math.isfinite(value) else None


def _show(
    path: Path, record: EcgRecord, findings: tuple[Finding, ...], action: Decision, plot: Path | None, own_policy: bool
) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ecgshared.ecg.quality import CODES

    console = Console()
    facts = summary(path, record, findings, action)
    header = Table.grid(padding=(0, 2))
    age = "unknown" if record.age_years is None else f"{record.age_years:g}"
    rows = {
        "recording": str(path),
        "format": record.source_format,
        "signal": f"{facts['samples']} samples at {record.fs:g} Hz, {record.seconds:.3f} s",
        "resolution": "unknown" if record.adc_units_per_mv is None else f"{record.adc_units_per_mv:g} per mV",
        "age": "over 89" if record.age_capped else age,
        "sex": {"F": "female", "M": "male", None: "unknown"}[record.sex],
        "recorded at": facts["recorded_at"],
        "device": record.device,
        "manufacturer": record.manufacturer,
        "filters": record.filters,
    }
    for name, value in rows.items():
        if value is not None:
            header.add_row(f"[bold]{name}[/bold]", escape(str(value)))
    console.print(header)
    if findings:
        table = Table("lead", "finding", "what it means", "in this recording", title="Quality")
        alike: dict[tuple[str, str], list[str]] = {}
        for finding in findings:
            alike.setdefault((finding.code, finding.message), []).append(finding.lead or "all")
        for (code, message), leads in alike.items():
            table.add_row(
                "all 12" if len(leads) == 12 else ", ".join(leads), code, CODES.get(code, ""), escape(message)
            )
        console.print(table)
    else:
        console.print("Quality: nothing found.")
    whose = "This site's" if own_policy else "A site's default"
    console.print(f"{whose} policy would [bold]{action}[/bold] it.")
    if plot is not None:
        console.print(f"12-lead sheet: {escape(str(plot))}")


def _save_sheet(record: EcgRecord, path: Path, plot: Path) -> None:
    from ecgshared.ecg.plot import twelve_lead_sheet
    from ecgshared.errors import EcgReadError

    try:
        twelve_lead_sheet(record, title=path.stem).savefig(plot)
    except (OSError, ValueError) as error:
        raise EcgReadError(
            f"the sheet cannot be written ({error})",
            where=plot,
            allowed="a writable .png, .pdf or .svg",
            remedy="choose another name or folder",
        ) from error
