"""A site whose key is lost: nothing goes on under another one, and beginning again says what it costs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from client.approval import register
from client.egress.gate import log_release
from client.operator.cli import app
from client.site.keys import SITE_KEY, load_keys
from client.site.lived import marks_of_life, retired_studies
from client.site.settings import SiteSettings, load_site
from ecgshared.errors import ConfigError, PrivacyError
from ecgshared.study.study import load_study

STUDY = {
    "name": "asked",
    "sites": {"train": ["oslo"]},
    "endpoints": {"dead": {"kind": "binary", "column": "dead"}},
    "steps": [{"id": "d", "stage": "describe"}],
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    file = tmp_path / "site.yaml"
    content = {
        "site": "oslo",
        "records": {"folder": "records"},
        "table": {"path": "c.csv", "columns": {"file": "file"}},
    }
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def study(tmp_path: Path) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY))
    return file


def lived(file: Path, study: Path) -> SiteSettings:
    settings = load_site(file)
    sha256 = register.approve_study(settings.state, study).sha256
    log_release(settings.state, {"study": sha256, "run": "r"}, replayed=False)
    (settings.state / SITE_KEY).unlink()
    return settings


def test_a_new_site_gets_a_key_and_keeps_it(site):
    settings = load_site(site)
    assert load_keys(settings) == load_keys(settings)


@pytest.mark.parametrize(
    "mark",
    ["approvals.jsonl", "releases.jsonl", "opt-out.txt", "cache/x", "keys/ledger.anchor", "outbox/a", "privacy/l"],
)
def test_whatever_shows_that_the_site_lived_forbids_another_key(site, mark):
    settings = load_site(site)
    path = settings.state / mark
    path.parent.mkdir(parents=True)
    path.write_text("x")
    with pytest.raises(PrivacyError, match=r"site's key is lost[\s\S]*ecgfed site rekey"):
        load_keys(settings)
    assert not (settings.state / SITE_KEY).exists()


def test_no_command_goes_on_without_the_key(site, study):
    lived(site, study)
    for words in (["start", str(site)], ["check", str(site), "--offline"], ["releases", str(site)]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code != 0 or words[0] == "releases"
        said = done.output + str(done.exception)
        assert "key is lost" in said, words


def test_restored_it_goes_on(site, study, tmp_path):
    settings = load_site(site)
    before = load_keys(settings)
    shutil.copy2(settings.state / SITE_KEY, tmp_path / "backup")
    lived(site, study)
    shutil.copy2(tmp_path / "backup", settings.state / SITE_KEY)
    assert load_keys(settings) == before


def test_rekeyed_it_begins_again_and_old_studies_are_over(site, study):
    settings = lived(site, study)
    refused = CliRunner().invoke(app, ["rekey", str(site)], input="north\n")
    assert "lockbox" in refused.output
    assert "comes back" in refused.output
    assert refused.exit_code == 1
    assert marks_of_life(settings.state)
    done = CliRunner().invoke(app, ["rekey", str(site)], input="oslo\n")
    assert done.exit_code == 0, done.output
    assert "1 study version(s) are over" in done.output
    (aside,) = site.parent.glob("state-before-*")
    assert (aside / "releases.jsonl").exists()
    load_keys(settings)
    assert retired_studies(settings.state) == {load_study(study).sha256}
    with pytest.raises(ConfigError, match="before the site's key was lost"):
        register.approve_study(settings.state, study)
    # Nor does an approval count that was written past that.
    register.record(settings.state, "study", load_study(study).sha256, "asked")
    assert register.in_force(settings.state) == {}
    other = study.with_name("other.yaml")
    other.write_text(yaml.safe_dump(STUDY | {"name": "new"}))
    register.approve_study(settings.state, other)
    assert len(register.in_force(settings.state)) == 1
    (settings.state / "retired-studies.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        register.in_force(settings.state)


def test_a_second_loss_forgets_no_study(site, study):
    settings = lived(site, study)
    CliRunner().invoke(app, ["rekey", str(site), "--yes"])
    first = retired_studies(settings.state)
    other = study.with_name("other.yaml")
    other.write_text(yaml.safe_dump(STUDY | {"name": "new"}))
    lived(site, other)
    assert CliRunner().invoke(app, ["rekey", str(site), "--yes"]).exit_code == 0
    assert retired_studies(settings.state) == first | {load_study(other).sha256}
    assert json.loads((settings.state / "retired-studies.json").read_text())


def test_a_key_that_is_there_is_not_replaced(site):
    settings = load_site(site)
    before = load_keys(settings)
    done = CliRunner().invoke(app, ["rekey", str(site), "--yes"])
    assert "nothing was lost" in str(done.exception)
    assert load_keys(settings) == before


def test_what_one_federation_may_run_another_may_not(site, study):
    state = load_site(site).state
    register.approve_study(state, study, federation="alps")
    assert register.in_force(state) == {}
    assert len(register.in_force(state, "alps")) == 1
