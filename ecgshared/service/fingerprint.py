"""The fingerprint of the installed code: what a site approves when it says which software may run on its data."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from ecgshared.errors import RunError

PACKAGES = ("ecgshared", "client", "server", "simulations")
ENDINGS = (".py", ".json", ".yaml", ".html", ".css", ".js")


def code_sha256() -> str:
    """Return the sha256 over names and contents of all files of the installed packages, 64 hexadecimal digits.

    It does not depend on where the packages lie, nor on compiled files. Libraries they use are not part of it.

    Raises
    ------
    RunError : a package is not installed, or a file of it cannot be read.
    """
    return folders_sha256({package: _folder(package) for package in PACKAGES})


def folders_sha256(folders: dict[str, Path]) -> str:
    """Return the sha256 over the files of named folders: one line per file, its name and its own sha256."""
    lines = []
    for name, folder in folders.items():
        for path in folder.rglob("*"):
            if path.suffix in ENDINGS and "__pycache__" not in path.parts and path.is_file():
                relative = f"{name}/{path.relative_to(folder).as_posix()}"
                try:
                    content = path.read_bytes()
                except OSError as error:
                    raise RunError(
                        f"a file of the installed code cannot be read ({type(error).__name__})", where=path
                    ) from None
                lines.append(f"{relative}\0{hashlib.sha256(content).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RunError("a package of the software is not installed", value=package, remedy="install the ecgfed wheel")
    return Path(next(iter(spec.submodule_search_locations)))
