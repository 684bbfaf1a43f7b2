"""Templates, what a study asks of its sites, its graph; and the Python face that runs one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

import ecgfed
from ecgfed._authoring import begin, graph, summary, templates
from ecgfed._schema import FILES, reference, schema
from ecgshared.cli import _with_words
from ecgshared.errors import ConfigError
from ecgshared.study.needed import needed_columns
from ecgshared.study.study import load_study

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("template", templates())
def test_a_template_is_a_study_that_its_schema_accepts(template: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    begin(template, file, "first")
    study = load_study(file)
    assert study.name == "first"
    head = file.read_text(encoding="utf-8").split("\n")[0]
    beside = tmp_path / head.rsplit("=", 1)[-1]
    jsonschema.validate(
        yaml.safe_load(file.read_text(encoding="utf-8")), json.loads(beside.read_text(encoding="utf-8"))
    )
    assert len(summary(study)) > 10


def test_a_key_that_no_stage_has_is_an_error_of_the_schema(tmp_path: Path) -> None:
    begin("risk", tmp_path / "study.yaml", "first")
    content = yaml.safe_load((tmp_path / "study.yaml").read_text(encoding="utf-8"))
    content["steps"][1]["round"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema("study"))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "simulations" / "scenarios").glob("*_study.yaml")), ids=lambda p: p.stem
)
def test_the_schema_accepts_what_is_shipped(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema("study"))
    faults = [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text(encoding="utf-8")))]
    assert faults == []


@pytest.mark.parametrize("file", FILES)
def test_the_committed_schemas_and_pages_are_the_generated_ones(file: str) -> None:
    # ecgfed schema FILE > docs/schemas/FILE.json; ecgfed schema FILE --markdown > docs/reference/FILE.md
    committed = json.loads((ROOT / "docs" / "schemas" / f"{file}.json").read_text(encoding="utf-8"))
    assert committed == json.loads(json.dumps(schema(file)))
    assert (ROOT / "docs" / "reference" / f"{file}.md").read_text(encoding="utf-8") == reference(file)


def test_every_key_of_a_study_and_of_a_site_file_says_what_it_is() -> None:
    silent = [
        f"{title}.{name}"
        for file in ("study", "site")
        for title, part in [(file, schema(file)), *schema(file)["$defs"].items()]
        for name, value in part.get("properties", {}).items()
        if not value.get("description") and name not in ("id", "stage")
    ]
    assert silent == []


def test_what_sites_must_map_follows_from_endpoints_filters_and_models(tmp_path: Path) -> None:
    begin("risk", tmp_path / "study.yaml", "first")
    wanted = needed_columns(load_study(tmp_path / "study.yaml"))
    assert wanted["death_cause"] == ["endpoint scd_2y"]
    assert wanted["icd_date"] == ["population reported", "step cohorts"]
    assert set(wanted["age"]) == {"eligibility", "population reported", "step risk"}
    assert "lvef" not in wanted


def test_the_graph_names_every_step_and_what_it_uses(tmp_path: Path) -> None:
    begin("risk", tmp_path / "study.yaml", "first")
    study = load_study(tmp_path / "study.yaml")
    assert "judged   evaluate           <- score, cutoff" in graph(study)
    drawn = graph(study, mermaid=True)
    assert drawn.startswith("flowchart LR")
    assert "cutoff --> judged" in drawn


def test_sites_are_written_where_they_are_given_and_named_where_not(tmp_path: Path) -> None:
    made_up = begin("risk", tmp_path / "a.yaml", "first", ("oslo", "bergen"))
    assert made_up == ["site_c"]
    assert load_study(tmp_path / "a.yaml").sites.train == ("oslo", "bergen")
    with pytest.raises(ConfigError, match="a file of this name"):
        begin("risk", tmp_path / "a.yaml", "first")
    with pytest.raises(ConfigError, match="no such template"):
        begin("risks", tmp_path / "b.yaml", "first")
    with pytest.raises(ConfigError, match="lower case"):
        begin("risk", tmp_path / "b.yaml", "First Study")
    # Of more hospitals than the template names, the last one is the unseen one.
    assert begin("risk", tmp_path / "b.yaml", "first", ("a", "b", "c", "d")) == []
    study = load_study(tmp_path / "b.yaml")
    assert (study.sites.train, study.sites.zero_shot) == (("a", "b", "c"), ("d",))
    begin("zero_shot", tmp_path / "c.yaml", "second", ("a", "b"))
    assert "zero_shot: [a, b]" in (tmp_path / "c.yaml").read_text()


def test_the_command_lists_begins_and_checks(tmp_path: Path) -> None:
    import typer

    from ecgfed._study_cli import app

    command = _with_words(typer.main.get_command(app))
    run = CliRunner()
    assert "survival" in run.invoke(command, ["init"]).output
    file = tmp_path / "study.yaml"
    assert run.invoke(command, ["init", "risk", "--out", str(file), "--site", "oslo"]).exit_code == 0
    told = run.invoke(command, ["check", str(file), "--json"])
    assert json.loads(told.output)["steps"][1]["uses"] == ["cohorts"]
    assert "<- risk" in run.invoke(command, ["graph", str(file)]).output


def test_the_face_reads_judges_and_draws_a_recording(made_demo: ecgfed.Hospitals, tmp_path: Path) -> None:
    header = next((made_demo.folder / "sites" / "north").rglob("*.hea"))
    record = ecgfed.read(header)
    assert record.p_signal.shape[0] == 12
    found = ecgfed.quality(record)
    assert list(found.columns) == ["code", "lead", "value", "message", "action"]
    assert 30 < ecgfed.features(record)["rate_bpm"] < 200
    assert ecgfed.preprocess(record, fs_hz=100, seconds=5).shape == (12, 500)
    ecgfed.plot(record, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    with pytest.raises(ecgfed.EcgFedError, match="fs_hz"):
        ecgfed.preprocess(record, fs_hz=5)


def test_a_script_without_a_main_guard_runs_a_federation(made_demo: ecgfed.Hospitals, tmp_path: Path) -> None:
    study = made_demo.folder / "study.yaml"
    content = yaml.safe_load(study.read_text(encoding="utf-8"))
    content["steps"] = [{"id": "cohorts", "stage": "describe"}]
    study.write_text(yaml.safe_dump(content), encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(
        "import ecgfed, client.ingest.reading as reading\n"
        "reading.PARALLEL_FROM = 20\nreading.BATCH = 8\n"
        f"run = ecgfed.simulate({str(study)!r}, {list(map(str, made_demo.sites))!r}, {str(tmp_path / 'run')!r})\n"
        "print('STEPS', list(run.results['steps']), run.study.name, run.report.exists())\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("STEPS") == 1
    assert "STEPS ['cohorts'] demo True" in done.stdout
    assert ecgfed.open_run(tmp_path / "run").study.name == "demo"
    with pytest.raises(ecgfed.EcgFedError, match="holds no run"):
        ecgfed.open_run(tmp_path)


def test_importing_the_face_loads_neither_torch_nor_flower() -> None:
    program = "import sys, ecgfed; print([n for n in ('torch', 'flwr', 'matplotlib') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_that_is_public_is_listed() -> None:
    public = {
        name
        for name, value in vars(ecgfed).items()
        if not name.startswith("_") and name != "annotations" and name not in ("version",)
    }
    assert public == set(ecgfed.__all__)
    assert issubclass(ecgfed.Study, BaseModel)
