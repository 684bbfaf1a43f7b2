from __future__ import annotations

import pytest

import ecgfed


@pytest.fixture(scope="session")
def made_demo(tmp_path_factory: pytest.TempPathFactory) -> ecgfed.Hospitals:
    """The demo's four hospitals, small."""
    return ecgfed.make_hospitals("demo", tmp_path_factory.mktemp("hospitals"), patients=80, seed=3)
