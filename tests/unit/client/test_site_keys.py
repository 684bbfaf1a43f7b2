"""A site's lasting key: drawn once and kept; fixed by a seed where a simulation wants its figures to print again."""

from __future__ import annotations

import shutil
import stat

import numpy as np
import pytest
from hospital import make_hospital

from client.site.keys import SITE_KEY, load_keys

IDS = [f"p{i}" for i in range(200)]


def rows():
    return [{"file": "a.hea", "patient_id": "p1", "age": "50", "sex": "F"}]


def site(folder, **changes):
    return make_hospital(folder, rows(), **changes)


def test_a_key_is_drawn_once_and_readable_by_its_owner_alone(tmp_path):
    settings = site(tmp_path)
    first = load_keys(settings).split_positions(IDS)
    np.testing.assert_array_equal(load_keys(settings).split_positions(IDS), first)
    assert stat.S_IMODE((settings.state / SITE_KEY).stat().st_mode) == 0o600
    shutil.rmtree(settings.state)
    assert not np.array_equal(load_keys(settings).split_positions(IDS), first)


def test_a_seed_draws_the_same_split_again_and_another_at_another_site(tmp_path):
    settings = site(tmp_path, seed=5)
    first = load_keys(settings).split_positions(IDS)
    shutil.rmtree(settings.state)
    np.testing.assert_array_equal(load_keys(settings).split_positions(IDS), first)
    for changes in ({"site": "elsewhere"}, {"seed": 6}):
        shutil.rmtree(settings.state)
        other = load_keys(settings.model_copy(update=changes)).split_positions(IDS)
        assert not np.array_equal(other, first)


def test_a_key_that_is_there_is_never_changed_by_a_seed(tmp_path):
    settings = site(tmp_path)
    first = load_keys(settings).split_positions(IDS)
    seeded = load_keys(settings.model_copy(update={"seed": 5}))
    np.testing.assert_array_equal(seeded.split_positions(IDS), first)


def test_on_a_network_a_seed_fixes_no_key(tmp_path):
    from client.site.settings import NetworkConfig

    network = NetworkConfig(coordinator="127.0.0.1:443", ca="ca", certificate="crt", key="key", envelope="0" * 64)
    settings = site(tmp_path, seed=5).model_copy(update={"network": network})
    first = load_keys(settings).split_positions(IDS)
    shutil.rmtree(settings.state)
    assert not np.array_equal(load_keys(settings).split_positions(IDS), first)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_named(tmp_path, seed):
    from ecgshared.errors import ConfigError

    with pytest.raises(ConfigError, match="seed"):
        site(tmp_path, seed=seed)
