"""A hospital that lies, or waits: Python imports this at start where the folder stands in PYTHONPATH, and ECGFED_ROGUE
says how.

The daemon and its worker are the ordinary ones; only what the worker answers to a round of training is another thing.
``watched``: it tells the truth, but the test reads what it adds to secure sums, and may have it wait at one phase, so
that it or the coordinator can be killed there.
"""

import os
import time
from pathlib import Path

KIND = os.environ.get("ECGFED_ROGUE", "")


def _lie() -> None:
    import numpy as np

    import client.app
    from ecgshared.stages.train import Update
    from ecgshared.wire.bytes import decode_payload, encode_payload, pack, stamp_of

    honest = client.app.answer_bytes

    def answer_bytes(site, study, request):
        body = honest(site, study, request)
        if request.phase != "fit":
            return body
        stamp = stamp_of(request, site.settings().site)
        if KIND == "nan":
            update = decode_payload(body, Update, stamp)
            update.update[:] = np.nan
            return encode_payload(update, stamp)
        if KIND == "garbage":
            return b"\x80\x04garbage" * 1000
        if KIND == "huge":
            return pack({"stamp": stamp, "scalars": {}}, {"update": np.random.default_rng(1).random(125_000_000)})
        if KIND == "folded":
            # Flower sends a piece that stands in an array many times only once.
            return pack({"stamp": stamp, "scalars": {}}, {"update": np.zeros(125_000_000, dtype=np.float64)})
        if KIND == "replay":
            return encode_payload(decode_payload(body, Update, stamp), stamp | {"round": request.round - 1})
        raise ValueError(f"ECGFED_ROGUE={KIND}")

    client.app.answer_bytes = answer_bytes


def _be_watched() -> None:
    """Keep what is added to each sum, and the weights it was asked with, in ``<step>.<phase>-<sum>.npz`` of the folder
    ECGFED_WATCHED; wait while its file ``wait`` names the step and phase that are asked, and say so by ``waits``."""
    import numpy as np

    import client.app
    from client.egress import sum_session
    from ecgshared.wire.secure_rounds import STAGE_ROUND

    folder, honest, hidden = Path(os.environ["ECGFED_WATCHED"]), client.app.answer_bytes, sum_session.Session.hidden
    asked = []

    def answer_bytes(site, study, request):
        asked[:] = [request]
        name, wait = f"{request.step}.{request.phase}", folder / "wait"
        while wait.exists() and wait.read_text() == name:
            (folder / "waits").write_text(name)
            time.sleep(0.02)
        return honest(site, study, request)

    def watched(session, words):
        request = asked[0]
        np.savez(
            folder / f"{request.step}.{request.phase.partition('+')[0]}-{session.round}.npz",
            words=words,
            weights=request.arrays.get("weights", np.zeros(0)),
            round=request.arrays[STAGE_ROUND],
        )
        return hidden(session, words)

    client.app.answer_bytes = answer_bytes
    sum_session.Session.hidden = watched


if KIND == "watched":
    _be_watched()
elif KIND:
    _lie()
