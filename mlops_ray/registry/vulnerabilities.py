"""The vulnerability scan: what is known against a sealed model's files and against what serves them."""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.evaluation.gates import Finding
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, read_events, record
from mlops_ray.governance.history import use_cases
from mlops_ray.governance.live import VersionRef, live
from mlops_ray.registry.advisories import Audit, audit
from mlops_ray.registry.artifact_check import ArtifactFinding, check_artifact
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.served_packages import FILE, packages
from mlops_ray.registry.trace import read_lineage
from mlops_ray.use_case import Gate, NoVulnerability

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scan:
    """What a scan found in the files and in the environment, which is the bill of materials of `packages` packages."""

    artifact: tuple[ArtifactFinding, ...]
    environment: Audit
    packages: int

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found | {"sentence": self.sentence}

    @property
    def sentence(self) -> str:
        """The result in words; that the environment was not audited is never left out."""
        files = f"{len(self.artifact)} findings in the files" if self.artifact else "nothing in the files"
        found = self.environment.vulnerabilities
        if not self.environment.audited:
            return f"Environment not audited: {self.environment.why_not}; {files}."
        age = f", newest record {self.environment.newest}" if self.environment.newest else ""
        unknown = len(self.environment.not_known)
        missed = f", {unknown} of them not known to it" if unknown else ""
        return (
            f"{len(found)} vulnerabilities in {self.packages} packages (source: {self.environment.source}{age}{missed}"
            f"); {files}."
        )


@dataclass(frozen=True)
class Rescanned:
    """A live version looked at again. new: what was not known when it was registered or at the last look."""

    use_case: str
    version: int
    scan: Scan
    new: tuple[str, ...]


def scan(folder: Path, advisories: str) -> Scan:
    """Look at a sealed folder: its files, and its bill of materials against `advisories` (the setting).

    Raises ConfigurationError if there is no bill of materials, or if the file of advisories cannot be read.
    """
    bill = folder / FILE
    if not bill.is_file():
        raise ConfigurationError(f"{folder} has no {FILE}: it was sealed by an older version. Train it again.")
    installed = packages(json.loads(bill.read_bytes()))
    found = Scan(check_artifact(folder), audit(installed, advisories), len(installed))
    worst = [f"{one.advisory} in {one.package} {one.version}" for one in found.environment.vulnerabilities]
    level = logging.WARNING if worst or found.artifact else logging.INFO
    logger.log(level, "Vulnerability scan: %s %s", found.sentence, ", ".join(worst[:10]))
    return found


def gate_findings(found: Scan, gates: Iterable[Gate]) -> tuple[Finding, ...] | None:
    """The findings as gates judge them; None if one of them asks about the environment and nobody looked at it.

    An advisory goes by the name by which a waiver calls it, if it has that as an alias.
    """
    asked = [gate for gate in gates if isinstance(gate, NoVulnerability)]
    if not found.environment.audited and any(gate.environment_from is not None for gate in asked):
        return None
    waived = {waiver.advisory for gate in asked for waiver in gate.waivers}
    findings = [Finding(one.rule, one.file, "critical", "artifact") for one in found.artifact]
    for one in found.environment.vulnerabilities:
        name = next((name for name in (one.advisory, *one.aliases) if name in waived), one.advisory)
        findings.append(Finding(name, f"{one.package} {one.version}", one.severity, "environment"))
    return tuple(findings)


def waivers(gates: Iterable[Gate]) -> dict[str, str]:
    """Until when each waived advisory does not count, as it goes into the lineage record."""
    asked = (gate for gate in gates if isinstance(gate, NoVulnerability))
    return {waiver.advisory: waiver.until.isoformat() for gate in asked for waiver in gate.waivers}


def rescan(settings: Settings, store: ControlStore, now: datetime | None = None) -> list[Rescanned]:
    """Scan every version that replicas keep loaded again; what is new becomes an event `vulnerability.found`.

    Raises ConfigurationError if no advisories are configured.
    """
    if not settings.advisories:
        raise ConfigurationError(
            "Setting 'advisories' is empty, so there is nothing to look into. Give a file or folder of OSV records, "
            "or pypi or osv where there is a network."
        )
    now = now or datetime.now(UTC)
    return [
        _look_again(settings, store, use_case, version, now)
        for use_case in use_cases(store)
        for version in live(store, use_case).versions()
    ]


def _look_again(
    settings: Settings, store: ControlStore, use_case: str, version: VersionRef, now: datetime
) -> Rescanned:
    subject = f"{use_case}@{version.version}"
    with TemporaryDirectory() as folder:
        found = scan(download_sealed(settings, use_case, version, Path(folder)), settings.advisories)
    known = _known(settings, store, use_case, version.version, now)
    new = [one for one in found.environment.vulnerabilities if (one.package, one.advisory) not in known]
    files = [one for one in found.artifact if (one.file, one.rule) not in known]
    if new or files:
        payload = {
            "digest": version.digest,
            "source": found.environment.source,
            "newest": found.environment.newest,
            "vulnerabilities": [asdict(one) for one in new],
            "files": [asdict(one) for one in files],
        }
        with store.transaction() as connection:
            reason = found.sentence
            record(
                connection, "vulnerability.found", SYSTEM, subject, use_case, payload=payload, reason=reason, now=now
            )
    names = [f"{one.advisory} ({one.severity}) in {one.package} {one.version}" for one in new]
    return Rescanned(use_case, version.version, found, tuple(names + [one.sentence for one in files]))


def _known(settings: Settings, store: ControlStore, use_case: str, version: int, now: datetime) -> set[tuple[str, str]]:
    """Package and advisory, or file and rule, of what was found at registration or announced since.

    What was waived at registration is known only until the waiver's end.
    """
    at_first = read_lineage(settings, use_case, version)[1].vulnerabilities
    over = {name for name, until in at_first.get("waivers", {}).items() if now >= datetime.fromisoformat(until)}
    found = at_first.get("environment", {}).get("vulnerabilities", ())
    seen = [one for one in found if not over & {one["advisory"], *one["aliases"]}]
    seen += at_first.get("artifact", ())
    subject = f"{use_case}@{version}"
    for event in read_events(store, types=["vulnerability.found"], use_case=use_case, subject=subject):
        seen += [*event.payload["vulnerabilities"], *event.payload["files"]]
    return {(one.get("package") or one["file"], one.get("advisory") or one["rule"]) for one in seen}
