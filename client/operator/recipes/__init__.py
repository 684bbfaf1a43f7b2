"""Site files for public databases, as they are published: mapping, labels, and what has caught others out."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ecgshared.errors import ConfigError


def recipes() -> dict[str, str]:
    """Return the databases by name, each with the words of its file's first line."""
    found = sorted(path.name for path in files(__name__).iterdir() if path.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): _text(name).split("\n")[0].lstrip("# ") for name in found}


def site_file(recipe: str, site: str, folder: str) -> str:
    """Return the text of a site file.

    Parameters
    ----------
    folder : of the database, as the site file is to name it.

    Raises
    ------
    ConfigError : there is no such recipe.
    """
    if recipe not in recipes():
        raise ConfigError("there is no recipe of this name", value=recipe, allowed=", ".join(recipes()))
    return _text(f"{recipe}.yaml").replace("FOLDER", folder).replace("SITE", site)


def _text(name: str) -> str:
    return (files(__name__) / Path(name).name).read_text(encoding="utf-8")
