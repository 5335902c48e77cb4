"""Advisories: which known vulnerabilities affect a list of packages, by records in the OSV form.

https://ossf.github.io/osv-schema/ describes the records. They come from files (where there is no network), or from
pip-audit, which asks a service.
"""

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlops_ray.errors import ConfigurationError
from mlops_ray.evaluation.gates import Severity

SERVICES = ("pypi", "osv")
_NOT_CONFIGURED = "no advisories configured (setting 'advisories')"
_OSV = "https://api.osv.dev"
_AUDIT_TIMEOUT_S, _RECORD_TIMEOUT_S = 120, 5
_WORDS: Mapping[str, Severity] = {
    "LOW": "low",
    "MODERATE": "medium",
    "MEDIUM": "medium",
    "HIGH": "high",
    "IMPORTANT": "high",
    "CRITICAL": "critical",
}


@dataclass(frozen=True)
class Vulnerability:
    """An advisory that affects an installed package. score: CVSS base score; severity is unknown where none is given.

    fixed_in: versions that are not affected any more; empty where none is known.
    """

    advisory: str
    aliases: tuple[str, ...]
    package: str
    version: str
    severity: Severity
    score: float | None
    summary: str
    fixed_in: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """What was found, and by what. audited: False where nobody could be asked, and `why_not` says the reason.

    source: the file or service asked. newest: when the newest of its records was changed (RFC 3339), which says how
    old it is; None for a service, which is as of now. not_known: packages that the service does not know, so that
    nothing can be said of them.
    """

    audited: bool
    source: str = ""
    newest: str | None = None
    vulnerabilities: tuple[Vulnerability, ...] = ()
    why_not: str = ""
    not_known: tuple[str, ...] = ()


def audit(packages: Mapping[str, str], advisories: str) -> Audit:
    """Look up `packages` (versions by name). advisories: the setting of this name.

    Raises ConfigurationError if its file cannot be read; a service that does not answer makes an audit that was not
    done.
    """
    if not advisories:
        return Audit(False, why_not=_NOT_CONFIGURED)
    if advisories in SERVICES or "://" in advisories:
        return _ask(packages, advisories)
    records = list(_records(Path(advisories)))
    moments = sorted(str(record["modified"]) for record in records if record.get("modified"))
    return Audit(True, advisories, moments[-1] if moments else None, affected(packages, records))


def affected(packages: Mapping[str, str], records: Iterable[Mapping[str, Any]]) -> tuple[Vulnerability, ...]:
    """Those records that affect an installed version, by package; the same advisory under two names counts once."""
    installed = {canonicalize_name(name): version for name, version in packages.items()}
    found: list[Vulnerability] = []
    for record in records:
        if record.get("withdrawn"):
            continue
        for part in record.get("affected", ()):
            package = part.get("package", {})
            name = canonicalize_name(str(package.get("name", "")))
            if package.get("ecosystem") == "PyPI" and name in installed and _hits(installed[name], part):
                found.append(_vulnerability(record, part, name, installed[name]))
    return _merged(found)


def severity_of(record: Mapping[str, Any]) -> tuple[Severity, float | None]:
    """The highest of the record's CVSS scores, or else the word of the database that published it."""
    parts = [record, *record.get("affected", ())]
    scores = [score for part in parts for one in part.get("severity") or () if (score := _score(one)) is not None]
    if scores:
        return _level(max(scores)), max(scores)
    for part in parts:
        for place in ("database_specific", "ecosystem_specific"):
            word = str((part.get(place) or {}).get("severity", "")).upper()
            if word in _WORDS:
                return _WORDS[word], None
    return "unknown", None


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """All records of a JSON file (one, or a list), JSON lines, a zip file as OSV publishes it, or a folder of these."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (".json", ".jsonl", ".zip"))
        if not files:
            raise ConfigurationError(f"Setting 'advisories': {path} holds no .json, .jsonl or .zip file.")
        for file in files:
            yield from _records(file)
        return
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                texts = [archive.read(name) for name in archive.namelist() if name.endswith(".json")]
        else:
            content = path.read_bytes()
            texts = [line for line in content.splitlines() if line.strip()] if path.suffix == ".jsonl" else [content]
        for text in texts:
            value = json.loads(text)
            yield from _expect_records(value if isinstance(value, list) else [value], path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"Setting 'advisories': {path} cannot be read: {error}.") from error


def _expect_records(values: Sequence[Any], path: Path) -> Sequence[dict[str, Any]]:
    for value in values:
        if not isinstance(value, dict) or not isinstance(value.get("id"), str):
            raise ConfigurationError(f"Setting 'advisories': {path} holds something that is no OSV record (no id).")
    return values


def _hits(version: str, part: Mapping[str, Any]) -> bool:
    """Whether a version is affected: it is listed, or lies in a range of versions (OSV's own algorithm)."""
    if version in part.get("versions", ()):
        return True
    ranges = [one for one in part.get("ranges", ()) if one.get("type") in ("ECOSYSTEM", "SEMVER")]
    try:
        return any(_inside(Version(version), one.get("events", ())) for one in ranges)
    except InvalidVersion:
        return False


def _inside(version: Version, events: Iterable[Mapping[str, str]]) -> bool:
    inside = False
    steps = [(Version("0.dev0" if text == "0" else text), kind) for event in events for kind, text in event.items()]
    for moment, kind in sorted(steps, key=lambda step: step[0]):
        if kind == "introduced" and version >= moment:
            inside = True
        elif (kind == "fixed" and version >= moment) or (kind == "last_affected" and version > moment):
            inside = False
    return inside


def _vulnerability(record: Mapping[str, Any], part: Mapping[str, Any], name: str, version: str) -> Vulnerability:
    severity, score = severity_of(record)
    events = [event for one in part.get("ranges", ()) if one.get("type") != "GIT" for event in one.get("events", ())]
    fixed = tuple(event["fixed"] for event in events if "fixed" in event)
    summary = str(record.get("summary") or record.get("details") or "").split("\n")[0][:300]
    aliases = tuple(sorted(map(str, record.get("aliases", ()))))
    return Vulnerability(str(record["id"]), aliases, name, version, severity, score, summary, fixed)


def _merged(found: Iterable[Vulnerability]) -> tuple[Vulnerability, ...]:
    """One for each package and advisory: of several under other names, the one whose severity is known."""
    kept: list[Vulnerability] = []
    for one in sorted(found, key=lambda one: (one.package, one.severity == "unknown", one.advisory)):
        names = {one.advisory, *one.aliases}
        same = (other for other in kept if other.package == one.package and names & {other.advisory, *other.aliases})
        if next(same, None) is None:
            kept.append(one)
    return tuple(kept)


def _score(severity: Mapping[str, Any]) -> float | None:
    import cvss

    kinds = {"CVSS_V2": cvss.CVSS2, "CVSS_V3": cvss.CVSS3, "CVSS_V4": cvss.CVSS4}
    kind = kinds.get(str(severity.get("type")))
    if kind is None:
        return None
    try:
        parsed = kind(str(severity.get("score")))
    except cvss.CVSSError:
        return None
    return float(parsed.base_score)


def _level(score: float) -> Severity:
    """As CVSS 3 and 4 name their scores."""
    return "critical" if score >= 9 else "high" if score >= 7 else "medium" if score >= 4 else "low"


def _ask(packages: Mapping[str, str], service: str) -> Audit:
    """pip-audit in a process of its own; it tells no severities, so those are read from OSV, while OSV answers.

    service: one of SERVICES, or the URL of a server that answers as OSV does.
    """
    osv = _OSV if service in SERVICES else service.rstrip("/")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(f"{name}=={version}\n" for name, version in packages.items()))
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", file.name, "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off"]
        command += ["--vulnerability-service", "pypi" if service == "pypi" else "osv", "--osv-url", f"{osv}/v1/query"]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=_AUDIT_TIMEOUT_S)
            answer = json.loads(run.stdout)["dependencies"]
        except (OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
            said = run.stderr.strip().splitlines()[-1:] if "run" in locals() else []
            return Audit(
                False, f"pip-audit ({service})", why_not=f"pip-audit failed: {(said or [str(error)])[0][:300]}"
            )
    skipped = tuple(str(package["name"]) for package in answer if "skip_reason" in package)
    if len(skipped) == len(packages):
        return Audit(False, f"pip-audit ({service})", why_not="pip-audit knew none of the packages")
    return Audit(True, f"pip-audit ({service})", None, _of_answer(answer, osv), not_known=skipped)


def _of_answer(answer: Iterable[Mapping[str, Any]], osv: str) -> tuple[Vulnerability, ...]:
    """pip-audit keeps one name of an advisory; its severity may stand only in the record of another."""
    found, online = [], True
    for package in answer:
        for one in package.get("vulns", ()):
            aliases = tuple(sorted(one.get("aliases", ())))
            severity: Severity = "unknown"
            score = None
            for name in (one["id"], *aliases):
                record = _osv_record(osv, name) if online and severity == "unknown" else {}
                online = online and record is not None
                if record:
                    severity, score = severity_of(record)
            fixed = tuple(one.get("fix_versions", ()))
            summary = str(one.get("description", "")).split("\n")[0][:300]
            name = canonicalize_name(package["name"])
            found.append(Vulnerability(one["id"], aliases, name, package["version"], severity, score, summary, fixed))
    return _merged(found)


def _osv_record(osv: str, advisory: str) -> dict[str, Any] | None:
    """The record; empty if the service has none of this name, None if it does not answer."""
    try:
        answer = httpx.get(f"{osv}/v1/vulns/{advisory}", timeout=_RECORD_TIMEOUT_S)
        return dict(answer.json()) if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return None
