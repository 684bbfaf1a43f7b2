"""What a run leaves for others: a crate, an MLflow run, outputs for a checker; what an installation is made of."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from federation import SmallFederation

from client.operator.checked_output import write_acro
from client.site.settings import load_site
from ecgshared.cli import command
from ecgshared.errors import ConfigError, RunError
from ecgshared.service.sbom import installed, sbom_json
from server.report.cli import rebuild
from server.report.crate import write_crate
from server.report.folder import read_run
from server.report.tensorboard import scalars
from simulations.federation.run import simulate


@pytest.fixture(scope="module")
def finished(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A run of two rounds and its report; the site files."""
    folder = tmp_path_factory.mktemp("provenance")
    (folder / "twin").mkdir()
    federation = SmallFederation(hospitals, folder)
    study = federation.study(about="A tiny study")
    sites = federation.sites(limits={"min_patients": 10, "min_events": 5})
    run = simulate(study, sites, folder / "run")
    rebuild(run)
    return run, sites


def _graph(folder: Path) -> dict[str, dict]:
    content = json.loads((folder / "ro-crate-metadata.json").read_text(encoding="utf-8"))
    return {entity["@id"]: entity for entity in content["@graph"]}


def test_a_run_becomes_a_crate_by_the_profile_of_workflow_runs(
    finished: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    run, _ = finished
    write_crate(run, tmp_path / "crate", licence="https://creativecommons.org/licenses/by/4.0/")
    graph = _graph(tmp_path / "crate")
    root = graph["./"]
    assert {one["@id"] for one in root["conformsTo"]} >= {
        "https://w3id.org/ro/wfrun/process/0.5",
        "https://w3id.org/ro/wfrun/workflow/0.5",
    }
    workflow = graph[root["mainEntity"]["@id"]]
    assert set(workflow["@type"]) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    info = json.loads((run / "run.json").read_text())
    action = graph[f"#run-{info['run']}"]
    assert action["instrument"] == {"@id": "study.yaml"}
    ran = [datetime.fromisoformat(action[key]) for key in ("startTime", "endTime")]
    assert ran == [datetime.fromisoformat(info[key]) for key in ("started", "ended")]
    assert ran[0] <= datetime.fromisoformat(graph["#step-risk"]["endTime"]) <= ran[1]
    assert {one["@id"] for one in action["object"]} == {f"#cohort-{site}" for site in info["sites"]}
    assert {"@id": "results.json"} in action["result"]
    assert [graph[one["@id"]]["name"] for one in workflow["step"]] == ["cohorts", "risk"]
    trained = json.loads((run / "artefacts" / "risk.json").read_text())["arrays_sha256"]
    assert trained in graph["#step-risk"]["description"]
    # Everything that is named is there, and every file is the run's own.
    for entity in graph.values():
        for value in entity.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict) and "@id" in one and not one["@id"].startswith("http"):
                    assert one["@id"] in graph, one
        if "File" in entity["@type"] and entity["@id"] != "ro-crate-metadata.json":
            assert (tmp_path / "crate" / entity["@id"]).read_bytes() == (run / entity["@id"]).read_bytes()
    # Weights stay out, and nothing names a path of this machine.
    assert not list((tmp_path / "crate").rglob("*.safetensors"))
    assert str(run.parent) not in (tmp_path / "crate" / "ro-crate-metadata.json").read_text()


def test_a_crate_is_read_again_with_models_where_asked(finished: tuple[Path, list[Path]], tmp_path: Path) -> None:
    from rocrate.rocrate import ROCrate

    run, _ = finished
    done = CliRunner().invoke(
        command, ["report", str(run), "--crate", str(tmp_path / "run.zip"), "--with-models", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["crate"].endswith("run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        archive.extractall(tmp_path / "out")
    crate = ROCrate(tmp_path / "out")
    assert crate.mainEntity.id == "study.yaml"
    assert (tmp_path / "out" / "artefacts" / "risk.safetensors").read_bytes() == (
        run / "artefacts" / "risk.safetensors"
    ).read_bytes()
    with pytest.raises(ConfigError, match="already"):
        write_crate(run, tmp_path / "run.zip")


def test_a_run_that_goes_on_is_no_crate_yet(finished: tuple[Path, list[Path]], tmp_path: Path) -> None:
    import shutil

    run, _ = finished
    going = tmp_path / "going"
    shutil.copytree(run, going)
    info = json.loads((going / "run.json").read_text())
    (going / "run.json").write_text(json.dumps(info | {"ended": None, "status": "running"}))
    with pytest.raises(RunError, match="not over"):
        write_crate(going, tmp_path / "crate")


def test_what_left_a_site_is_laid_out_for_an_output_checker(finished: tuple[Path, list[Path]], tmp_path: Path) -> None:
    _, sites = finished
    done = CliRunner().invoke(command, ["site", "releases", str(sites[0]), "--acro", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    settings = load_site(sites[0])
    log = [json.loads(line) for line in (settings.state / "releases.jsonl").read_text().splitlines()]
    left = [line for line in log if "kind" in line and not line.get("replayed")]
    assert len(content["results"]) == len(left) == json.loads(done.stdout)["outputs"]
    for one, line in zip(content["results"].values(), left, strict=True):
        (file,) = one["files"]
        with (tmp_path / "out" / file["name"]).open(newline="") as table:
            rows = list(csv.DictReader(table))
        assert {row["field"] for row in rows} == set(line["fields"])
        suppressed = [number for number, row in enumerate(rows) if row["value"] == "withheld"]
        assert [row for row, _ in file["sdc"]["cells"]["threshold"]] == suppressed
        assert len(suppressed) == sum(field["withheld"] for field in line["fields"].values())
        # Weights in the clear are for a person to look at; they are named by hash, not spread out.
        clear = [row for row in rows if row["kind"] == "weights"]
        assert (one["status"] == "review") == bool(clear)
        assert all("numbers, sha256" in row["value"] for row in clear)
    assert {one["status"] for one in content["results"].values()} == {"pass", "review"}
    assert any(one["files"][0]["sdc"]["summary"]["suppressed"] for one in content["results"].values())
    with pytest.raises(ConfigError, match="not empty"):
        write_acro(settings, tmp_path / "out")
    with pytest.raises(ConfigError, match="nothing left in such a run"):
        write_acro(settings, tmp_path / "none", "another")


def test_acros_own_reader_reads_it(finished: tuple[Path, list[Path]], tmp_path: Path) -> None:
    record = pytest.importorskip("acro.record")
    _, sites = finished
    write_acro(load_site(sites[1]), tmp_path / "out")
    records = record.load_records(str(tmp_path / "out"))
    counts = records.get("output_0")
    assert counts.status == "pass"
    assert list(counts.output[0].columns) == ["field", "kind", "place", "value"]


def test_an_answer_that_is_not_kept_is_for_a_person_to_look_at(
    finished: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    _, sites = finished
    settings = load_site(sites[2])
    kept = next((settings.state / "outbox").rglob("counts-0.answer"))
    before = kept.read_bytes()
    try:
        kept.write_bytes(b"")
        outputs, review = write_acro(settings, tmp_path / "out")
        content = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
        assert content["output_0"]["status"] == "review"
        assert "cannot be shown" in content["output_0"]["comments"][-1]
        assert 0 < review <= outputs
    finally:
        kept.write_bytes(before)


def test_an_mlflow_store_has_every_figure_once_however_often_it_is_written(
    finished: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run, _ = finished
    uri = (tmp_path / "store").as_uri()
    for _ in range(2):
        done = CliRunner().invoke(command, ["report", str(run), "--mlflow", uri, "--follow", "--json"])
        assert done.exit_code == 0, done.output
    identifier = json.loads(done.stdout)["mlflow_run"]
    client = tracking.MlflowClient(tracking_uri=uri)
    found = client.get_run(identifier)
    assert found.info.status == "FINISHED"
    assert found.data.params["step.risk"] == "train"
    points = scalars(read_run(run))
    assert set(found.data.metrics) == {tag for tag, *_ in points}
    tag = "risk/fit/train_loss"
    expected = {number: value for name, number, _, value in points if name == tag}
    history = client.get_metric_history(identifier, tag)
    assert len(history) == len(expected) == 2
    for one in history:
        assert np.isclose(one.value, expected[one.step])
    assert {one.path for one in client.list_artifacts(identifier)} == {"report.html", "results.json", "study.yaml"}
    assert len(client.search_runs([found.info.experiment_id])) == 1


def test_a_server_that_is_not_there_is_said(finished: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = CliRunner().invoke(command, ["report", str(finished[0]), "--mlflow", "http://127.0.0.1:9"])
    assert isinstance(done.exception, RunError)
    assert "does not take the run" in str(done.exception)


def test_the_bill_of_materials_is_cyclonedx_and_names_what_is_installed() -> None:
    from importlib.metadata import version

    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = sbom_json()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    content = json.loads(text)
    assert content["metadata"]["component"]["name"] == "ecgfed"
    components = {one["name"]: one for one in content["components"]}
    for name in ("flwr", "torch", "numpy", "pydantic"):
        assert components[name]["version"] == version(name)
        assert components[name]["purl"].startswith(f"pkg:pypi/{name}@")
    assert set(components) | {"ecgfed"} == set(installed())
    flower = next(one for one in content["dependencies"] if one["ref"].startswith("flwr=="))
    assert any(ref.startswith("grpcio==") for ref in flower["dependsOn"])
    assert CliRunner().invoke(command, ["sbom"]).stdout.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("module", "arguments"), [("rocrate", ["--crate", "crate"]), ("mlflow", ["--mlflow", "http://127.0.0.1:9"])]
)
def test_an_extra_that_is_not_installed_is_named(
    finished: tuple[Path, list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: str,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    done = CliRunner().invoke(command, ["report", str(finished[0]), *arguments])
    assert isinstance(done.exception, ConfigError)
    assert "pip install 'ecgfed[" in str(done.exception)
