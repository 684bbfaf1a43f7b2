"""A hospital that lies: Python imports this at start where the folder stands in PYTHONPATH, and ECGFED_ROGUE says how.

The daemon and its worker are the ordinary ones; only what the worker answers to a round of training is another thing.
"""

import os

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


if KIND:
    _lie()
