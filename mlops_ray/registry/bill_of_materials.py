"""The bill of materials: every distribution that a server of the model runs, as a CycloneDX document.

The rule: what the code of a replica imports (`SERVED_BY`), and everything that those require in turn, as it is
installed where the model is sealed; a replica compares it with what it runs when it loads the model. The same
environment gives the same document, so that a model sealed twice has one digest.
"""

import json
import platform
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from mlops_ray.registry.served_packages import SERVED_BY, closure


def bill_of_materials(roots: Iterable[str] = SERVED_BY) -> dict[str, Any]:
    """The CycloneDX document (JSON, version 1.6) of `roots` and all that they require here.

    roots: requirements as pip takes them. What is not installed is left out: nothing of it can run.
    """
    return document(closure(tuple(roots)))


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
