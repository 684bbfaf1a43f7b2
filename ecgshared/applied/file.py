"""The file of a model: one safetensors document, with one line of JSON that says what its arrays are.

Arrays of the step itself stand under their own names, those of the steps it rests on under ``<step>/<name>``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from ecgshared.errors import ConfigError

FORMAT_VERSION = 1
KEY = "ecgfed"
APART = "/"


@dataclass(frozen=True)
class ModelFile:
    """What a file says of itself.

    Attributes
    ----------
    told : stage, step, study, who trained, configuration, result; ``parts``: the same of the steps it rests on;
        ``judged``: results of steps that judged it; ``endpoints`` of the study. Older files lack these three.
    arrays : the step's own. parts : those of each step it rests on.
    """

    told: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    parts: dict[str, dict[str, NDArray[Any]]]


def read_model_file(content: bytes, where: object) -> ModelFile:
    """Read a file's bytes; raise :class:`ConfigError` where they are none that `ecgfed model export` wrote."""
    try:
        arrays = load_tensors(content)
        size = int.from_bytes(content[:8], "little")
        told = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][KEY])
        if told["format_version"] != FORMAT_VERSION:
            raise ConfigError("is a file of another format version", where=where, value=told["format_version"])
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise ConfigError("is no file that `ecgfed model export` wrote", where=where) from None
    parts: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in arrays.items():
        step, apart, own = name.partition(APART)
        if apart:
            parts.setdefault(step, {})[own] = array
    return ModelFile(dict(told), {name: a for name, a in arrays.items() if APART not in name}, parts)
