"""Every stage of the sudden-death study on real ECGs of PTB-XL and CODE-15%: figures, or why there are none."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from ecgshared.study.study import load_study
from server.report.html import render
from simulations.federation.run import simulate

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "real"
SITES = ("ptbxl0", "ptbxl1", "ptbxl2", "ptbxl3", "antodono")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_stages_run_on_real_sites_and_those_without_inputs_say_so(shared_data, tmp_path):
    text = (EXAMPLES / "infarction.yaml").read_text(encoding="utf-8")
    (tmp_path / "infarction.yaml").write_text(text.replace("rounds: 8", "rounds: 2"), encoding="utf-8")
    for site in SITES:
        settings = (
            (EXAMPLES / f"{site}.yaml").read_text(encoding="utf-8").replace("../../../../shared/data", str(shared_data))
        )
        (tmp_path / f"{site}.yaml").write_text(settings.replace("../../../runs/", ""), encoding="utf-8")
    study = tmp_path / "infarction.yaml"
    run = simulate(study, [tmp_path / f"{site}.yaml" for site in SITES], tmp_path / "run")
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    done = {path.stem for path in (run / "artefacts").glob("*.json")}
    assert info["status"] == "done"
    assert done | set(info["left_out"]) == {step.id for step in load_study(study).steps}
    assert {"cohorts", "net", "score", "judged", "circles", "profile", "look"} <= done
    assert all("no site can take part" in info["left_out"][step] for step in ("odds", "devices"))
    abroad = json.loads((run / "artefacts" / "judged.json").read_text(encoding="utf-8"))["result"]["pooled"][
        "zero_shot"
    ]
    assert abroad["mi"]["events"] == 38
    page = html.unescape(re.sub(r"<[^>]+>", "", render(run).read_text(encoding="utf-8")))
    assert "could not lay out" not in page
    (unknown,) = re.findall(r"VF/VT is not known at ([^.]*)\.", page)
    assert all(name in unknown for name in ("site 0", "site 1", "site 2", "site 3", "CODE-15%"))
    assert "The marker is known of nobody at PTB-XL, site 0" in page
    assert "Whether it followed is not known at" in page
