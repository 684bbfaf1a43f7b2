"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import SmallFederation

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of a story back into the order they are written in, where they stand now; others stay shuffled."""
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        if item.get_closest_marker("story") is not None:
            places.setdefault(item.nodeid.partition("::")[0], []).append(place)
    for at in places.values():
        told = sorted((items[place] for place in at), key=lambda item: item.reportinfo()[1] or 0)
        for place, item in zip(at, told, strict=True):
            items[place] = item


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings beside the checkout; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("real recordings (../shared/data) are not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``sites/<name>/site.yaml`` of the demo's four hospitals, a tenth of their size."""
    from simulations.hospitals.make import make_hospitals
    from simulations.patients.scenario import load_scenario

    out = tmp_path_factory.mktemp("hospitals")
    make_hospitals(load_scenario("demo"), out, 3, 0.1, None)
    return out


@pytest.fixture
def federation(hospitals: Path, tmp_path: Path) -> SmallFederation:
    (tmp_path / "twin").mkdir()
    return SmallFederation(hospitals, tmp_path)
