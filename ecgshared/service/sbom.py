"""The software bill of materials of an installation: every package that ecgfed here rests on, as CycloneDX."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

from ecgshared.errors import ConfigError
from ecgshared.service.fingerprint import code_sha256


def installed(root: str = "ecgfed") -> dict[str, tuple[Distribution, tuple[str, ...]]]:
    """Return the packages that ``root`` needs and that are installed, by name, each with those it needs itself.

    What is needed for an extra only counts where it is installed.
    """
    found: dict[str, tuple[Distribution, tuple[str, ...]]] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        package = distribution(name)
        needs = sorted(set(_needs(package, everything=name == root)))
        found[name] = (package, tuple(needs))
        waiting += needs
    return dict(sorted(found.items()))


def _needs(package: Distribution, *, everything: bool) -> Iterator[str]:
    extras = [*(package.metadata.get_all("Provides-Extra") or [])] if everything else []
    for text in package.requires or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not any(wanted.marker.evaluate({"extra": e}) for e in ("", *extras)):
            continue
        name = _normal(wanted.name)
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        yield name


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def sbom_json() -> str:
    """Return the bill of materials as CycloneDX 1.6 JSON.

    Raises
    ------
    ConfigError : cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.contrib.license.factories import LicenseFactory
        from cyclonedx.model import Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
        from packageurl import PackageURL
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed", where="ecgfed sbom", remedy="pip install 'ecgfed[provenance]'"
        ) from None
    licences = LicenseFactory()
    packages = installed()
    components = {}
    for name, (package, _needed) in packages.items():
        told = {key: package.metadata[key] for key in set(package.metadata)}
        words = told.get("License-Expression") or _short(told.get("License"))
        own = [Property(name="ecgfed:code_sha256", value=code_sha256())] if name == "ecgfed" else []
        components[name] = Component(
            name=name,
            version=package.version,
            type=ComponentType.APPLICATION if name == "ecgfed" else ComponentType.LIBRARY,
            bom_ref=f"{name}=={package.version}",
            purl=PackageURL("pypi", None, name, package.version),
            description=told.get("Summary"),
            licenses=[licences.make_from_string(words)] if words else [],
            properties=own,
        )
    bom = Bom()
    bom.metadata.component = components["ecgfed"]
    bom.components.update(component for name, component in components.items() if name != "ecgfed")
    for name, (_package, needs) in packages.items():
        bom.register_dependency(components[name], [components[needed] for needed in needs])
    return JsonV1Dot6(bom).output_as_string(indent=2)


def _short(licence: str | None) -> str | None:
    """Return a licence that is named in a line; some packages put its whole text there."""
    first = (licence or "").strip()
    return first if first and "\n" not in first and len(first) < 80 else None
