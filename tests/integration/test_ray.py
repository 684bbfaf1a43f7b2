"""The Ray backend: the same study, the same weights, on workers that know only their partition number."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from server.rounds.run_folder import RunFolder
from simulations.federation.run import simulate


@pytest.mark.slow
def test_ray_gives_the_weights_of_the_in_process_run(federation):
    pytest.importorskip("ray", reason="the extra ecgfed[ray] is not installed")
    study, sites = federation.study(), federation.sites()
    here = simulate(study, sites, federation.folder / "here")
    out = federation.folder / "ray"
    command = [sys.executable, "-m", "ecgshared", "simulate", "run", str(study), *map(str, sites), "--out", str(out)]
    done = subprocess.run([*command, "--backend", "ray"], capture_output=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    weights = []
    for run in (here, out):
        folder = RunFolder.reopen(run)
        folder.close()
        assert folder.info["status"] == "done"
        weights.append(folder.artefact("risk").arrays["weights"])
    np.testing.assert_allclose(weights[0], weights[1], rtol=0, atol=1e-6)
