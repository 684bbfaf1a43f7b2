"""The site's own YAML: where its records are, how its columns map, what it permits. It never leaves."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from client.site.described import DescribedConfig
from client.site.table_settings import FHIR, SHIPPED_SQL, DateAndTime, QueryConfig, TableConfig
from ecgshared.config import Config, load_yaml, validate
from ecgshared.errors import ConfigError
from ecgshared.privacy.disclosure import DisclosureLimits
from ecgshared.study.columns import STANDARD_COLUMNS
from ecgshared.study.endpoints import BUILT_IN_LABELS

Action = Literal["keep", "flag", "refuse"]
RepairableAction = Literal["keep", "flag", "repair", "refuse"]


REPAIRABLE_CODES = ("reversed-ra-la", "reversed-ra-ll", "reversed-la-ll")
"""Findings whose cause can be undone exactly; named here, as the rules themselves are heavy to load."""


class RecordsConfig(Config):
    """Where the recordings lie. Paths are relative to the site file."""

    folder: Path = Field(description="folder of the recordings")
    pattern: str | tuple[str, ...] = Field(
        default="**/*.hea", description="glob below the folder that finds every recording, or several"
    )

    @property
    def patterns(self) -> tuple[str, ...]:
        """The globs, one or several."""
        return (self.pattern,) if isinstance(self.pattern, str) else self.pattern


class QualityPolicy(Config):
    """What to do with a record that has a finding; codes are those of ecgshared.ecg.quality.CODES."""

    default: Action = Field(default="flag", description="for findings not named below")
    actions: dict[str, RepairableAction] = Field(
        default={
            "checksum": "refuse",
            "truncated": "refuse",
            "all-flat": "refuse",
            "fs-contradicts-length": "refuse",
            "too-short": "refuse",
            "limb-lead-inverted": "refuse",
            "leads-permuted": "refuse",
            "same-trace": "refuse",
            "limb-leads-contradict": "refuse",
            "gains-differ": "refuse",
        },
        description="finding: keep, flag, repair or refuse",
    )
    most_empty: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="refuse a recording of whose twelve leads more than this share is absent, invalid or constant",
    )

    @field_validator("actions")
    @classmethod
    def _can_be_repaired(cls, actions: dict[str, RepairableAction]) -> dict[str, RepairableAction]:
        faults = [code for code, action in actions.items() if action == "repair" and code not in REPAIRABLE_CODES]
        if faults:
            raise ValueError(f"{', '.join(faults)} cannot be repaired; only {', '.join(REPAIRABLE_CODES)} can")
        return actions


WeightsPolicy = Literal["private", "secure_sum", "plain"]
WEIGHTS_POLICY: dict[WeightsPolicy, str] = {
    "private": "weights of differentially private training only",
    "secure_sum": "weights of private training, or added under masks to those of other sites, so that nobody sees them",
    "plain": "weights in the clear: whoever sees them can get ECGs, age, sex and labels of single training patients",
}
"""What each policy lets training send, in words that are true."""


class PrivacyCap(Config):
    """The most privacy loss this site grants one study, and all together; it trains privately or not at all if
    `required`."""

    required: bool = Field(default=False, description="true: no training without differential privacy")
    max_epsilon: float = Field(default=10.0, gt=0, description="over all runs of a study")
    max_delta: float = Field(default=1e-4, gt=0, lt=1, description="chance that epsilon does not hold")
    total_epsilon: float | None = Field(
        default=None, gt=0, description="over all studies together, whatever they are called; null: max_epsilon"
    )
    total_days: float | None = Field(
        default=None, gt=0, description="the period that total_epsilon is granted for; null: for ever"
    )
    weights: WeightsPolicy | None = Field(
        default=None,
        description="what training may send: private, secure_sum or plain (weights in the clear, from which ECGs of "
        "single patients can be got); null: secure_sum on a network, plain in a simulation",
    )
    statistics: Literal["group-limited", "refused"] = Field(
        default="group-limited",
        description="figures about training patients beside weights and counts: for groups of enough people, or none",
    )

    @property
    def most_in_all(self) -> float:
        """Epsilon that all studies together may cost a patient."""
        return self.max_epsilon if self.total_epsilon is None else self.total_epsilon


class SecureSumsPolicy(Config):
    """How this site takes part in sums that are added under masks, so that nobody sees its own."""

    policy: Literal["allowed", "required"] = Field(
        default="allowed",
        description="required: sums and weights that can be added under masks never leave otherwise",
    )
    limits_of: Literal["own", "pooled"] = Field(
        default="own",
        description="whose group must meet the limits in a secure sum: this site's own, or that of all sites together; "
        "pooled lets a small site take part",
    )
    peers: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default={},
        description="site: fingerprint of its key as `ecgfed site identity` prints it there; others are remembered as "
        "first seen",
    )


class RetentionConfig(Config):
    """How long what was sent is kept here, and whether it may lie on a volume that is not encrypted."""

    outbox_days: float = Field(
        default=30, gt=0, description="answers are kept so long for who asks again; later only that they were given"
    )
    encrypted: Literal["wanted", "required"] = Field(
        default="wanted",
        description="required: nothing is answered while `state` lies on a volume that the kernel does not call "
        "encrypted; wanted: `ecgfed site check` says so",
    )


class ApprovalsPolicy(Config):
    """Who approves what may run here."""

    needed: int = Field(
        default=0,
        ge=0,
        le=9,
        description="named people who must approve before it counts; 0: whoever may run the command",
    )
    people: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default={}, description="name: public key, as `ecgfed site person NAME` prints it"
    )

    @model_validator(mode="after")
    def _enough_people(self) -> ApprovalsPolicy:
        if self.needed > len(set(self.people.values())):
            raise ValueError(f"needed is {self.needed}, people has {len(set(self.people.values()))} different key(s)")
        return self


class ComputeConfig(Config):
    """Where and how precisely this site computes."""

    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?|auto)$", description="cpu, cuda, cuda:1 or auto")
    precision: Literal["fp32", "bf16", "fp64"] = Field(default="fp32", description="of the computation")
    threads: int | None = Field(default=None, ge=1, description="of the processor; null takes all")


FEDERATION = "ecgfed"
"""A federation's name where its coordinator gave it none."""


class NetworkConfig(Config):
    """How this site joins a federation of hospitals. Where it is given, only what was approved is run."""

    federation: str = Field(
        default=FEDERATION,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
        description="its name, from the kit; a site in two has a site file for each and one `state`: what each may run "
        "is kept apart, what patients have paid is kept together",
    )
    coordinator: str = Field(
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$",
        description="host:port of the coordinator, from the kit; the site connects to nothing else",
    )
    ca: Path = Field(description="certificate of the coordinator's authority, from the kit")
    certificate: Path = Field(description="this site's certificate, once the coordinator has sent it")
    key: Path = Field(description="this site's private key, made here; it never leaves")
    envelope: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="sha256 of the envelope the coordinator ships, from the kit"
    )
    health_port: int | None = Field(
        default=None, ge=0, le=65535, description="gRPC health on 127.0.0.1; null serves none, 0 picks a free port"
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="Prometheus on 127.0.0.1; null serves none, 0 picks a free port"
    )
    heartbeat_seconds: float = Field(
        default=10, ge=10, le=1800, description="the coordinator counts the site as gone after two missed heartbeats"
    )
    renew: Literal["by_itself", "ask"] = Field(
        default="by_itself",
        description="whether the daemon may ask for its next certificate, of the same key, and take it up; ask: it "
        "only warns, and `ecgfed site certificate` installs what the coordinator sent",
    )
    renew_days: float = Field(
        default=30, ge=0, le=365, description="how long before the certificate's end it asks, or warns"
    )
    max_message_mb: int = Field(
        default=1024, ge=1, le=1024, description="a larger request is refused, a larger answer is never sent (MiB)"
    )


class SiteSettings(Config):
    """A site file."""

    format_version: Literal[1] = Field(default=1, description="of this file")
    site: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="this site's name in studies and certificate")
    records: RecordsConfig = Field(description="where the recordings are")
    table: TableConfig = Field(description="where the cohort table is and how it is read")
    described: DescribedConfig = Field(
        default=DescribedConfig(), description="shape of arrays that say nothing of themselves"
    )
    state: Path = Field(default=Path("state"), description="cache, ledger, outbox, logs: owner-only")
    design: Literal["cohort", "case_control"] = Field(
        default="cohort",
        description="how the table's patients were chosen; of a case-control series only ranks leave (AUCs and their "
        "differences), never what hangs on how often the event is",
    )
    patient_id_missing: Literal["refuse", "drop", "each-ecg-a-patient"] = Field(
        default="refuse", description="what becomes of rows without a patient id"
    )
    exclude: Path | None = Field(
        default=None, description="patient ids that opted out: a text file, one a line, or an .xlsx, its first column"
    )
    exclude_near: bool = Field(
        default=True,
        description="also leave out ids that differ from one that opted out only by case, leading zeros, blanks or "
        "dashes; `check` names them",
    )
    quality: QualityPolicy = Field(default=QualityPolicy(), description="which findings refuse a recording")
    limits: DisclosureLimits = Field(
        default=DisclosureLimits(), description="smallest groups that a figure may speak of"
    )
    privacy: PrivacyCap = Field(default=PrivacyCap(), description="most that any patient's privacy may be spent")
    secure_sums: SecureSumsPolicy = Field(
        default=SecureSumsPolicy(), description="sums added under masks: whether they are insisted on, and whose limits"
    )
    retention: RetentionConfig = Field(
        default=RetentionConfig(), description="how long answers are kept, and on what kind of volume"
    )
    approvals: ApprovalsPolicy = Field(default=ApprovalsPolicy(), description="who approves what may run here")
    compute: ComputeConfig = Field(default=ComputeConfig(), description="threads, memory and device for training")
    studies: tuple[Path, ...] = Field(
        default=(), description="the studies of a simulation; on the network `ecgfed site approve` counts"
    )
    consortium_key: Path | None = Field(default=None, description="shared split key where patients visit several sites")
    network: NetworkConfig | None = Field(
        default=None, description="the federation over the network; null where a site only simulates"
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="fixes what happens inside the site, and its split; for tests only"
    )

    @property
    def federation(self) -> str:
        """The federation that this file joins."""
        return FEDERATION if self.network is None else self.network.federation

    @property
    def link_state(self) -> Path:
        """Where what belongs to this federation's connection lies: status, inbox, session, logs of the daemon."""
        return self.state if self.federation == FEDERATION else self.state / "federations" / self.federation

    @property
    def weights_policy(self) -> WeightsPolicy:
        """What training may send."""
        return self.privacy.weights or ("plain" if self.network is None else "secure_sum")

    @model_validator(mode="after")
    def _names_are_known(self) -> SiteSettings:
        columns, labels = self.table.columns, self.table.labels
        faults = []
        for name in columns:
            if name not in STANDARD_COLUMNS:
                close = get_close_matches(name, list(STANDARD_COLUMNS), n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"allowed: {', '.join(STANDARD_COLUMNS)}"
                hint += "; a column that a study declares is mapped under table.declared"
                faults.append(f"table.columns.{name}: no standard column; {hint}")
        for name in self.table.declared:
            if name in STANDARD_COLUMNS:
                faults.append(f"table.declared.{name}: a standard column; map it under table.columns")
            if name in labels:
                faults.append(f"table.declared.{name}: table.labels has the name too; choose one of them")
        for name in labels:
            if name in STANDARD_COLUMNS or name in BUILT_IN_LABELS:
                faults.append(f"table.labels.{name}: the name is taken; choose another")
        faults += [
            f"table.columns.{name}: {{date, time}} is for dates; this column is of kind {STANDARD_COLUMNS[name].kind}"
            for name, source in columns.items()
            if isinstance(source, DateAndTime) and name in STANDARD_COLUMNS and STANDARD_COLUMNS[name].kind != "date"
        ]
        faults += [
            f"table.values.{name}: not in table.columns, table.declared or table.labels"
            for name in self.table.values
            if name not in columns and name not in labels and name not in self.table.declared
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _freezes_parquet(self) -> SiteSettings:
        if self.table.query is not None and self.table.path.suffix.lower() != ".parquet":
            raise ValueError("table.path must end in .parquet where table.query makes the table")
        return self

    @model_validator(mode="after")
    def _needs_a_join(self) -> SiteSettings:
        if self.table.join == "{file}" and "file" not in self.table.columns:
            raise ValueError("table.columns must map `file`, or table.join must say how a row finds its recording")
        return self


def load_site(path: Path) -> SiteSettings:
    """Read a site file; its relative paths become absolute, seen from the file's own folder."""
    data = load_yaml(path)
    settings = validate(SiteSettings, data, where=path)
    base = path.resolve().parent

    def absolute(p: Path) -> Path:
        return (p if p.is_absolute() else base / p).resolve()

    return settings.model_copy(
        update={
            "records": settings.records.model_copy(update={"folder": absolute(settings.records.folder)}),
            "table": settings.table.model_copy(
                update={"path": absolute(settings.table.path), "query": _absolute_query(settings.table.query, absolute)}
            ),
            "state": absolute(settings.state),
            "exclude": None if settings.exclude is None else absolute(settings.exclude),
            "studies": tuple(absolute(p) for p in settings.studies),
            "consortium_key": None if settings.consortium_key is None else absolute(settings.consortium_key),
            "network": None
            if settings.network is None
            else settings.network.model_copy(
                update={key: absolute(getattr(settings.network, key)) for key in ("ca", "certificate", "key")}
            ),
        }
    )


def _absolute_query(query: QueryConfig | None, absolute: Callable[[Path], Path]) -> QueryConfig | None:
    """Return a query whose files are named absolutely."""
    if query is None:
        return None
    scheme = FHIR if query.database.startswith(FHIR) else ""
    place = query.database.removeprefix(scheme)
    database = query.database if "://" in place else scheme + str(absolute(Path(place)))
    sql = query.sql if query.sql in SHIPPED_SQL else str(absolute(Path(query.sql)))
    return query.model_copy(update={"database": database, "sql": sql})


def named_paths(path: Path) -> list[tuple[str, Path]]:
    """Return what a site file names as (what it is, where), also where the file is not valid otherwise."""
    try:
        data = load_yaml(path)
    except ConfigError:
        return []
    found = []
    for what, *keys in (("folder", "records", "folder"), ("table", "table", "path"), ("opt-out list", "exclude")):
        value: object = data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and value:
            found.append((what, path.resolve().parent / value))
    return found


def network_of(settings: SiteSettings) -> NetworkConfig:
    """Return how the site joins the network; raise :class:`ConfigError` where its file does not say."""
    if settings.network is None:
        raise ConfigError(
            "the site file has no `network:` section", remedy="ecgfed site init --kit KIT.yaml --out SITE.yaml"
        )
    return settings.network
