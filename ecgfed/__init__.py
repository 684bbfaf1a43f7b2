"""ecgfed for Python users: read and judge an ECG, write a study, run a federation on this machine, fit over hospitals.

>>> import ecgfed
>>> record = ecgfed.read("ecg/00001.hea")              # doctest: +SKIP
>>> ecgfed.quality(record)                             # doctest: +SKIP
>>> hospitals = ecgfed.make_hospitals("demo", "hospitals", patients=400)     # doctest: +SKIP
>>> run = ecgfed.simulate(hospitals.study, hospitals.sites, "runs/first")    # doctest: +SKIP
>>> run.results["steps"]["judged"]                     # doctest: +SKIP
>>> ecgfed.predict(run.folder, "ecg/00001.hea")        # doctest: +SKIP

What is named here is kept; every name that begins with an underscore, and every other package, may change. Importing it
loads neither torch nor Flower: what needs them loads them.
"""

from __future__ import annotations

from importlib.metadata import version

from ecgfed import survival
from ecgfed._ecg import features, plot, preprocess, quality, read
from ecgfed._models import load_model, predict
from ecgfed._studies import Hospitals, Run, Study, make_hospitals, new_study, open_run, simulate
from ecgshared.errors import EcgFedError

__version__ = version("ecgfed")

__all__ = [
    "EcgFedError",
    "Hospitals",
    "Run",
    "Study",
    "features",
    "load_model",
    "make_hospitals",
    "new_study",
    "open_run",
    "plot",
    "predict",
    "preprocess",
    "quality",
    "read",
    "simulate",
    "survival",
]
