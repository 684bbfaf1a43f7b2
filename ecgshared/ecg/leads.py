"""The twelve leads: names, order, spelling, and the algebra among the limb leads."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""Standard order of every array with a lead axis."""

LIMB_LEADS, CHEST_LEADS = LEADS[:6], LEADS[6:]

_BY_SPELLING = {lead.upper(): lead for lead in LEADS}
_BY_SPELLING |= {f"C{i}": f"V{i}" for i in range(1, 7)}
_BY_SPELLING |= {spelling: lead for lead in ("I", "II", "III") for spelling in (f"D{lead}", f"D{len(lead)}")}

_WORDS = re.compile(
    r"^((MDC|ECG|EKG|LEAD|ABLEITUNG|ABL|DERIVATION|DÉRIVATION|DERIVACIÓN|DERIVACION|DERIVAÇÃO|DERIVAZIONE|AVLEDNING"
    r"|AFLEIDING|EINTHOVEN|GOLDBERGER|WILSON|KANAL|CHANNEL)[\s_.:-]*)+"
)
_UNIT = re.compile(r"\s*[\[(/]\s*(MV|[UµΜ]V|NV|V)\s*[\])]?$")
_TURNED = re.compile(r"(^|\s)-\s*A|^INV|I\W+I")
_BETWEEN = re.compile(r"[\s_.-]+")

# Einthoven and Goldberger: each limb lead as a combination of I and II.
_FROM_I_II = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


def standard_name(name: str) -> str | None:
    """Return the standard spelling of a lead name, or None where it is none of the twelve.

    Accepts any case; blanks, dots, dashes and underscores within (``a V R``, ``V-1``); words before (``Lead II``,
    ``MDC_ECG_LEAD_II``, ``Ableitung V1``); a unit after (``II [mV]``); C1 to C6 (IEC 60601-2-25), DI to DIII and D1
    to D3. ``-aVR`` is not accepted: it is inverted.
    """
    plain = _BY_SPELLING.get(name.upper())
    if plain is not None:
        return plain
    key = unicodedata.normalize("NFKC", name).strip().upper()
    key = _UNIT.sub("", key)
    if _TURNED.search(key):
        return None
    key = _BETWEEN.sub("", _WORDS.sub("", key))
    return _BY_SPELLING.get(key)


def to_standard_order(p_signal: NDArray[np.float32], sig_name: Sequence[str]) -> NDArray[np.float32]:
    """Arrange signals into :data:`LEADS`, derive absent limb leads from two present ones.

    Parameters
    ----------
    p_signal : array, shape = (n_sig, T), mV.
    sig_name : the name of each row, in any spelling; rows that are no standard lead are dropped.

    Returns
    -------
    array, shape = (12, T), float32 mV; a lead that is absent and cannot be derived is NaN.
    """
    out = np.full((12, p_signal.shape[1]), np.nan, dtype=np.float32)
    for row, name in zip(p_signal, sig_name, strict=True):
        lead = standard_name(name)
        if lead is not None:
            out[LEADS.index(lead)] = row
    derive_limb_leads(out)
    return out


def derive_limb_leads(p_signal: NDArray[np.float32]) -> list[str]:
    """Fill limb leads that are NaN throughout from two present ones, in place; return which were filled.

    Parameters
    ----------
    p_signal : array, shape = (12, T), mV, in standard order.
    """
    present = {
        lead: row for lead, row in zip(LIMB_LEADS, p_signal, strict=False) if row[0] == row[0] or (row == row).any()
    }
    basis = limb_basis(present) if len(present) < len(LIMB_LEADS) else None
    if basis is None:
        return []
    lead_i, lead_ii = basis
    derived = [lead for lead in LIMB_LEADS if lead not in present]
    for lead in derived:
        a, b = {"I": (1.0, 0.0), "II": (0.0, 1.0), **_FROM_I_II}[lead]
        p_signal[LEADS.index(lead)] = a * lead_i + b * lead_ii
    return derived


def limb_basis(
    present: dict[str, NDArray[np.float32]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Solve leads I and II from any two limb leads present; None where fewer than two are."""
    combos = {"I": (1.0, 0.0), "II": (0.0, 1.0), **_FROM_I_II}
    names = [lead for lead in ("I", "II", "III", "aVF", "aVL", "aVR") if lead in present][:2]
    if len(names) < 2:
        return None
    system = np.array([combos[name] for name in names])
    solved = np.linalg.solve(system, np.stack([present[name] for name in names]).astype(np.float64))
    return solved[0].astype(np.float32), solved[1].astype(np.float32)
