"""Reports: files attached to a version's approval, kept among the artifacts and checked when they are read."""

import hashlib
from datetime import UTC, datetime

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError, IntegrityError
from mlops_ray.governance.approvals import attach, list_approvals
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.verdicts import Approval, Report
from mlops_ray.governance.versions import expect_name

MAX_REPORT_BYTES = 7_000_000
_FOLDER = "reports"


def attach_report(
    settings: Settings, store: ControlStore, actor: Actor, use_case: str, version: int, name: str, content: bytes
) -> Approval:
    """Keep the file under its digest, and record it with the newest request for the version.

    Raises DataError for a name that is no file's and for a file that is empty or too large, and what
    `approvals.attach` raises.
    """
    expect_name(use_case)
    if not name.isprintable() or not 0 < len(name) <= 200 or set(name) & set("/\\") or name.startswith("."):
        raise DataError(f"{name[:40]!r} is no name for a report: 1 to 200 characters, no '/' or '\\', no dot in front.")
    if not 0 < len(content) <= MAX_REPORT_BYTES:
        raise DataError(f"The report has {len(content):,} bytes; the limits are 1 and {MAX_REPORT_BYTES:,}.")
    digest = hashlib.sha256(content).hexdigest()
    report = Report(name, digest, len(content), actor.name, actor.id or None, datetime.now(UTC))
    # First: what is recorded is there. Bytes that nobody recorded, because attaching was refused, harm nobody.
    Artifacts(settings.artifacts).write_bytes(content, _FOLDER, use_case, digest)
    return attach(store, actor, use_case, version, report)


def read_report(settings: Settings, store: ControlStore, use_case: str, version: int, digest: str) -> bytes:
    """The file as it was attached. Raises ConfigurationError if none was, IntegrityError if it is another now."""
    known = {
        report.digest: report
        for one in list_approvals(store, use_case)
        if one.version == version
        for report in one.reports
    }
    if digest not in known:
        there = ", ".join(f"{report.name} ({report.digest[:12]})" for report in known.values()) or "none"
        raise ConfigurationError(f"{use_case}@{version} has no report {digest[:64]!r}; attached are: {there}.")
    try:
        content = Artifacts(settings.artifacts).read_bytes(_FOLDER, use_case, digest)
    except FileNotFoundError:
        raise IntegrityError(
            f"The report {known[digest].name} of {use_case}@{version} is gone from the artifacts. Restore it."
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise IntegrityError(
            f"The report {known[digest].name} of {use_case}@{version} has the digest {found}, and was attached with "
            f"{digest}. Restore it from a backup."
        )
    return content
