"""The notebooks as pages of the documentation: each ``docs/notebooks/NAME.py`` becomes ``notebooks/NAME.html``."""

from __future__ import annotations

from pathlib import Path

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE = "[This page as a notebook]({name}.py): `jupytext --to notebook {name}.py`, or open it in Jupyter as it is."


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook; its source stays beside it, to be taken home."""
    for source in sorted(Path(config.docs_dir, "notebooks").glob("*.py")):
        notebook = jupytext.read(source)
        parts = [
            cell["source"] if cell["cell_type"] == "markdown" else f"```python\n{cell['source']}\n```"
            for cell in notebook["cells"]
            if cell["cell_type"] in ("markdown", "code")
        ]
        text = "\n\n".join([*parts, SOURCE.format(name=source.stem)])
        files.append(File.generated(config, f"notebooks/{source.stem}.md", content=text))
    return files
