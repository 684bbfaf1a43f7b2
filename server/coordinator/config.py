"""``coordinator.yaml``: what a coordinator may change, every key explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, field_validator, model_validator

from ecgshared.config import Config

ADDRESS = r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$"


class CoordinatorConfig(Config):
    """``coordinator.yaml``."""

    format_version: Literal[1] = 1
    name: str = Field(default="ecgfed", pattern=r"^[A-Za-z0-9 ._-]{1,60}$", description="of the federation")
    address: str = Field(pattern=ADDRESS, description="host:port that the sites connect to; it stands in every kit")
    listen: str = Field(
        pattern=ADDRESS, description="address:port the proxy listens on; the only one that is reachable"
    )
    superlink_port: int = Field(ge=1, le=65535, description="of Flower's SuperLink, on 127.0.0.1 only")
    health_port: int | None = Field(
        default=None, ge=0, le=65535, description="gRPC health on 127.0.0.1; null serves none, 0 picks a free port"
    )
    metrics_port: int | None = Field(
        default=None, ge=0, le=65535, description="Prometheus on 127.0.0.1; null serves none, 0 picks a free port"
    )
    nginx: Path | None = Field(default=None, description="null looks for it in PATH and /usr/sbin")
    certificate_days: float = Field(default=365, gt=0, description="validity of a site's or the server's certificate")
    renewals: Literal["by_itself", "ask"] = Field(
        default="by_itself",
        description="whether an admitted site's request for its next certificate, of the same key and in the last "
        "month of the old one, is signed as it comes; ask: `ecgfed coordinator status` tells, `admit` signs",
    )
    piece_kb: int = Field(
        default=5120,
        ge=128,
        le=20_480,
        description="what is sent to sites goes in pieces of so many KiB; a piece that is cut off is sent again whole: "
        "smaller ones suit slow lines, and larger ones fast ones",
    )
    max_reply_mb: int = Field(default=1024, ge=1, le=1024, description="a larger answer of a site is not fetched (MiB)")

    @field_validator("address", "listen")
    @classmethod
    def _port_exists(cls, address: str) -> str:
        if not 1 <= port_of(address) <= 65535:
            raise ValueError("a port is 1 to 65535")
        return address

    @model_validator(mode="after")
    def _two_ports(self) -> CoordinatorConfig:
        if port_of(self.listen) == self.superlink_port:
            raise ValueError(f"listen and superlink_port are both {self.superlink_port}; each needs a port of its own")
        return self


def commented(config: CoordinatorConfig) -> str:
    """Return a configuration as the text of its file."""
    lines = ["# A coordinator of ecgfed. After a change: ecgfed coordinator down; ecgfed coordinator up --detach", ""]
    for name, info in CoordinatorConfig.model_fields.items():
        if info.description:
            lines.append(f"# {info.description}")
        lines.append(yaml.safe_dump({name: config.model_dump(mode="json")[name]}).strip())
    return "\n".join(lines) + "\n"


def federation_slug(name: str) -> str:
    """Return a federation's name as files are named by it: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "federation"


def port_of(address: str) -> int:
    """Return the port of a host:port."""
    return int(address.rpartition(":")[2])
