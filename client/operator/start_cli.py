"""``ecgfed site init``: a site file to start from, out of a coordinator's kit, out of folder and table, or both."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecgshared.errors import ConfigError

if TYPE_CHECKING:
    from client.operator.guess_folder import FolderGuess
    from client.operator.guess_table import TableGuess
    from client.site.table_settings import QueryConfig


@dataclass
class Filled:
    """What a new site file says of folder and table; ``said`` tells it to the operator, ``open`` asks for the rest."""

    given: dict[str, Any] = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)


def init(
    kit: Annotated[Path | None, typer.Option(help="the kit the coordinator sent", metavar="KIT.yaml")] = None,
    folder: Annotated[Path | None, typer.Option(help="the folder of the recordings")] = None,
    table: Annotated[Path | None, typer.Option(help="the table of the ECGs: CSV, .xlsx or Parquet")] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="in place of a table: PostgreSQL's URL, a folder of CSV or Parquet files, fhir:FOLDER or fhir:https://..."
        ),
    ] = None,
    sql: Annotated[
        str | None, typer.Option(help="the query: a file, or a shipped one; omop-scd, or fhir-scd after fhir:")
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="what ${NAME} stands for in the SQL")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="a public database as it is published, in --folder; `list` names them")
    ] = None,
    exclude: Annotated[Path | None, typer.Option(help="the list of patient ids that opted out")] = None,
    site: Annotated[str | None, typer.Option(help="the site's name, where no kit gives it")] = None,
    out: Annotated[Path, typer.Option(help="the site's file", metavar="SITE.yaml")] = Path("site.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="what was found and guessed, as JSON")] = False,
) -> None:
    """Write a site file: look at folder and table and guess what they are, join a federation by its kit, or both."""
    if recipe is not None:
        if kit is not None or table is not None or database is not None or exclude is not None:
            raise ConfigError(
                "a recipe knows its table", allowed="--recipe NAME --folder FOLDER --site SITE --out FILE"
            )
        _from_recipe(recipe, folder, site, out)
        return
    if table is not None and database is not None:
        raise ConfigError("the ECGs' table is a file or comes from a database", allowed="--table or --database")
    if (folder is None) != (table is None and database is None):
        raise ConfigError("folder and table go together", allowed="--folder FOLDER --table TABLE (or --database URL)")
    if kit is None and folder is None:
        raise ConfigError(
            "there is nothing to start from", allowed="--kit KIT.yaml, or --folder FOLDER --table TABLE, or all three"
        )
    if out.exists() and folder is not None:
        raise ConfigError("there is a site file already", where=out, remedy="give another --out, or move it away")
    shipped = "fhir-scd" if (database or "").startswith("fhir:") else "omop-scd"
    query = None if database is None else _query(database, sql or shipped, parameter or [])
    if query is not None:
        table = _drawn(query, out)
    filled = Filled()
    if folder is not None and table is not None:
        filled = _looked_at(folder, table, exclude, out)
        if query is not None:
            filled.given |= {f"table.query.{key}": value for key, value in query.model_dump().items()}
    if kit is None:
        name = _name(site, folder or Path())
        _write(out, name, filled)
        _tell(out, name, filled, as_json)
        return
    _enrol(kit, out, filled, as_json)


def _from_recipe(recipe: str, folder: Path | None, site: str | None, out: Path) -> None:
    from client.operator.recipes import recipes, site_file
    from client.operator.recipes.headers import HEADERS, write_table
    from client.site.settings import load_site
    from ecgshared.service.files import write_atomically

    if recipe == "list":
        for name, words in recipes().items():
            typer.echo(f"{name:<14} {words}")
        return
    if folder is None or not folder.is_dir():
        raise ConfigError("a recipe needs the folder of its database", value=folder and str(folder), allowed="--folder")
    if out.exists():
        raise ConfigError("there is a site file already", where=out, remedy="give another --out, or move it away")
    text = site_file(recipe, _name(site or recipe.replace("_", "-"), folder), _relative(folder, out))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text.encode())
    typer.echo(f"written: {out}; its first lines say what to know about these data")
    settings = load_site(out)
    if settings.table.path.name.endswith(HEADERS):
        rows = sum(write_table(folder, pattern, settings.table.path) for pattern in settings.records.patterns)
        typer.echo(f"written: {settings.table.path}, {rows:,} rows out of the recordings' headers")
    first = "" if settings.table.query is None else f"ecgfed site cohort {out}, then "
    typer.echo(f"next: {first}ecgfed site check {out}")


def _query(database: str, sql: str, parameters: list[str]) -> QueryConfig:
    from client.site.table_settings import FHIR, SHIPPED_SQL, QueryConfig
    from ecgshared.config import validate

    faults = [text for text in parameters if "=" not in text]
    if faults:
        raise ConfigError("is no NAME=VALUE", where="--set", value=faults)
    scheme = FHIR if database.startswith(FHIR) else ""
    place = database.removeprefix(scheme)
    # Files as seen from the site file are named once it is written; here, from where the operator stands.
    data = {
        "database": database if "://" in place else scheme + str(Path(place).resolve()),
        "sql": sql if sql in SHIPPED_SQL else str(Path(sql).resolve()),
        "parameters": dict(text.split("=", 1) for text in parameters),
    }
    return validate(QueryConfig, data, where="--database")


def _drawn(query: QueryConfig, out: Path) -> Path:
    """Draw the cohort and freeze it beside the site file."""
    from client.cohort.frozen import draw, freeze
    from client.site.table_settings import TableConfig

    path = out.with_suffix(".cohort.parquet")
    if path.exists():
        raise ConfigError("there is a frozen cohort already", where=path, remedy="give another --out, or move it away")
    content = draw(query, lambda text: typer.echo(text, err=True))
    freeze(TableConfig(path=path, query=query, columns={}), content)
    return path


def _looked_at(folder: Path, table: Path, exclude: Path | None, out: Path) -> Filled:
    from client.operator.guess_folder import look_at_folder
    from client.operator.guess_table import look_at_table

    files = look_at_folder(folder)
    rows = look_at_table(table, files.recordings, files.records)
    patterns = list(files.patterns)
    filled = Filled(
        given={
            "records.folder": _relative(folder, out),
            "records.pattern": patterns[0] if len(patterns) == 1 else patterns,
            **{f"table.{key}": value for key, value in rows.settings.items()},
            "table.path": _relative(table, out),
            **({"exclude": _relative(exclude, out)} if exclude is not None else {}),
        },
        guessed={
            "records.pattern": "\n".join(f"{p}: {n} of {formats}" for p, (formats, n) in files.formats.items()),
            **{key: why for key, why in rows.why.items() if key.startswith("table.")},
            "table.columns": "\n".join(
                f"{name}: {rows.why[f'columns.{name}']}" for name in rows.columns if f"columns.{name}" in rows.why
            ),
        },
        open=rows.open,
    )
    filled.said = _said(files, rows, folder, table)
    return filled


def _said(files: FolderGuess, rows: TableGuess, folder: Path, table: Path) -> list[str]:
    from client.site.described import ENDINGS

    lines = [f"folder {folder}: {len(files.recordings.paths)} recordings"]
    lines += [f"  {pattern:<12} {n:>7,}  {formats}" for pattern, (formats, n) in files.formats.items()]
    lines += [f"  {pattern:<12} {n:>7,}  left out: {why}" for pattern, (why, n) in files.left_out.items()]
    if any(PurePath(pattern).suffix in ENDINGS for pattern in files.left_out):
        lines.append("  (if what was left out is plain arrays of ECGs, say which under `described:`)")
    told = [f"{key} {rows.settings[key]!r}" for key in ("sheet", "header", "separator") if key in rows.settings]
    lines.append(f"table {table}" + (f": {', '.join(told)}" if told else ""))
    width = max(map(len, rows.columns), default=0)
    lines += [f"  {name:<{width}}  {local!r}" for name, local in rows.columns.items()]
    lines += [f"  {key}: {rows.settings[key]}" for key in ("join", "day_first", "values") if key in rows.settings]
    if rows.unused:
        lines.append(f"  not used: {', '.join(map(repr, rows.unused))}")
    return lines


def _write(out: Path, name: str, filled: Filled) -> None:
    from client.site.sitefile import site_template
    from ecgshared.service.files import write_atomically

    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, site_template(name, given=filled.given, guessed=filled.guessed).encode())


def _tell(out: Path, name: str, filled: Filled, as_json: bool) -> None:
    if as_json:
        told = {"site": name, "file": str(out), "given": filled.given, "guessed": filled.guessed, "open": filled.open}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for line in filled.said:
        typer.echo(line)
    for line in filled.open:
        typer.echo(f"ASK  {line}")
    typer.echo(f"written: {out}, site {name!r}; what was guessed is marked GUESSED in it, with what it rests on")
    typer.echo(f"next: {'answer what is asked, ' if filled.open else ''}read it, then ecgfed site check {out}")


def _enrol(kit: Path, out: Path, filled: Filled, as_json: bool) -> None:
    from client.network.enrol import start as enrol
    from ecgshared.service.fingerprint import code_sha256

    done = enrol(kit, out, given=filled.given, guessed=filled.guessed)
    same = code_sha256() == done.kit.code_sha256
    if as_json:
        told = {
            "site": done.kit.site, "file": str(done.site_file), "new_file": done.new_site_file, "new_key": done.new_key,
            "request": str(done.request), "same_code": same, "given": filled.given, "guessed": filled.guessed,
            "open": filled.open,
        }  # fmt: skip
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for line in filled.said:
        typer.echo(line)
    for line in filled.open:
        typer.echo(f"ASK  {line}")
    typer.echo(f"site:    {done.kit.site}, invited by {done.kit.coordinator}")
    typer.echo(f"key:     {'made' if done.new_key else 'kept as it was'}; it never leaves this machine")
    typer.echo(f"request: {done.request}")
    typer.echo(
        f"file:    {done.site_file}, {'new, every key explained' if done.new_site_file else 'knows the network now'}"
    )
    typer.echo(
        f"code:    {'the same as the coordinator runs' if same else 'ANOTHER than the coordinator runs: ask which'}"
    )
    typer.echo("")
    typer.echo(f"1. send {done.request} to the coordinator (it holds nothing secret)")
    typer.echo(f"2. when {done.kit.site}.crt comes back: ecgfed site certificate {done.site_file} {done.kit.site}.crt")
    fill = "read what was guessed" if filled.given else "fill in records and table"
    typer.echo(f"3. {fill}: ecgfed site check {done.site_file}")


def _relative(path: Path, out: Path) -> str:
    """Return a path as a site file names it: seen from its own folder where it lies there or beside."""
    try:
        found = Path(os.path.relpath(path.resolve(), out.resolve().parent))
    except ValueError:
        return str(path.resolve())  # on another drive
    return found.as_posix() if found.parts[:2] != ("..", "..") else str(path.resolve())


def _name(site: str | None, folder: Path) -> str:
    if site is not None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,39}", site):
            raise ConfigError("is no name of a site", value=site, allowed="small letters, digits, - and _: north")
        return site
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.resolve().parent.name.lower()).strip("-_")[:40]
    return name if re.fullmatch(r"[a-z][a-z0-9_-]*", name) else "site"
