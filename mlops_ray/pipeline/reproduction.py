"""Reproduction: the recorded pipeline of a version run again from the raw files, and compared with its record.

Only the chosen candidate is fitted, with the chosen parameters: the search decided which, and its trials are on record.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.code_version import code_version, framework_version, lock_digest
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.import_closure import code_digest
from mlops_ray.ingestion.sources import find_files
from mlops_ray.pipeline.cpus import node_cpus
from mlops_ray.pipeline.declarations import declarations
from mlops_ray.pipeline.pipeline import Pipeline, platform_now
from mlops_ray.pipeline.steps.step import Notify
from mlops_ray.registry.lineage import Lineage
from mlops_ray.registry.served_packages import FILE as BILL_OF_MATERIALS
from mlops_ray.training.ensemble import candidates_in
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import UseCase

# How far a metric may be off where the fit cannot be the same to the last digit (see `is_exact`): of one, or of itself
# where it is larger, as an error in minutes is.
METRIC_TOLERANCE = 0.005


@dataclass(frozen=True)
class Difference:
    """The first thing that is not as recorded."""

    name: str
    recorded: str
    found: str

    def __str__(self) -> str:
        return f"{self.name}: recorded {self.recorded}, found {self.found}"


@dataclass(frozen=True)
class Reproduction:
    """equal: the names of what was compared and found equal, in order. difference: what was not, None if all was.

    exact: metrics and files had to be equal to the last digit. notes: what differs without counting.
    """

    equal: tuple[str, ...]
    difference: Difference | None
    exact: bool
    notes: tuple[str, ...]
    seconds: float


def reproduce(
    use_case: UseCase,
    settings: Settings,
    feature_repo: Path,
    lineage: Lineage,
    any_code: bool = False,
    tolerance: float = METRIC_TOLERANCE,
    notify: Notify = lambda event: None,
) -> Reproduction:
    """Run the pipeline of `lineage` again in the state folder of `settings`, which should be a fresh one.

    The raw files are those of `settings.data`. Ray must be initialised unless `compare_inputs` finds a difference.
    any_code: go on although the code is another. tolerance: see METRIC_TOLERANCE.
    """
    started = time.monotonic()
    notes = environment_notes(lineage)
    exact = is_exact(use_case, lineage)
    equal: list[str] = []
    difference = None
    for name, recorded, found in _comparisons(use_case, settings, feature_repo, lineage, any_code, exact, notify):
        if not _same(recorded, found, 0.0 if exact else tolerance):
            difference = Difference(name, _shown(recorded), _shown(found))
            break
        equal.append(name)
    return Reproduction(tuple(equal), difference, exact, notes, time.monotonic() - started)


def compare_inputs(
    use_case: UseCase, settings: Settings, feature_repo: Path, lineage: Lineage, any_code: bool = False
) -> Difference | None:
    """The first difference that shows before anything is run, and without Ray: code, declarations, raw files."""
    for name, recorded, found in _inputs(use_case, settings, feature_repo, lineage, any_code):
        if recorded != found:
            return Difference(name, _shown(recorded), _shown(found))
    return None


def is_exact(use_case: UseCase, lineage: Lineage) -> bool:
    """Whether the same digits are to be expected: the same machine's environment, as many threads, a candidate that
    does not say `deterministic = False` of itself, and a fit that no clock has ended, of at most one worker."""
    fitted = [one for one in use_case.candidates if one.name in candidates_in(_trial(lineage))]
    deterministic = all(getattr(one, "deterministic", True) for one in fitted)
    deterministic &= lineage.evaluation.get("fitted_on", {}).get("workers", 0) < 2
    return deterministic and "cut_short_after" not in lineage.evaluation and not environment_notes(lineage)


def environment_notes(lineage: Lineage) -> tuple[str, ...]:
    """Where this environment is another than the recorded one."""
    python, platform = platform_now()
    pairs = {
        "Python": (lineage.python, python),
        "platform": (lineage.platform, platform),
        "lock file": (lineage.lock_file, lock_digest()),
    }
    return tuple(
        f"{name}: recorded {_shown(recorded)}, here {_shown(found)}"
        for name, (recorded, found) in pairs.items()
        if recorded != found
    )


def _comparisons(
    use_case: UseCase,
    settings: Settings,
    feature_repo: Path,
    lineage: Lineage,
    any_code: bool,
    exact: bool,
    notify: Notify,
) -> Iterator[tuple[str, Any, Any]]:
    """(name, recorded, found), each computed only when what stands before it was equal."""
    yield from _inputs(use_case, settings, feature_repo, lineage, any_code)
    pipeline = Pipeline(use_case, settings, feature_repo, datetime.fromisoformat(lineage.as_of), notify)
    done = pipeline.run(until="training_set")
    snapshot, training_set = done["ingest"].result, done["training_set"].result
    yield "contract", lineage.contract, snapshot["contract"]
    for source, counts in lineage.rows.items():
        for name, recorded in counts.items():
            yield f"rows of {source}, {name}", recorded, snapshot["counts"].get(source, {}).get(name)
    yield "snapshot", lineage.snapshot, snapshot["digest"]
    views = {view["view"]: view["digest"] for view in done["features"].result["views"]}
    for view, digest in lineage.feature_rows.items():
        yield f"rows of feature view {view}", digest, views.get(view)
    yield "training rows", lineage.training_rows, training_set["rows"]
    yield "training set", lineage.training_set, training_set["digest"]
    if lineage.threads > node_cpus():
        raise ConfigurationError(
            f"The model was fitted with {lineage.threads} threads, and this cluster's largest node has {node_cpus()} "
            f"CPUs. Give Ray more (setting num_cpus)."
        )
    on = lineage.evaluation.get("fitted_on", {})
    fitted = pipeline.fit(_trial(lineage), lineage.threads, on.get("memory_bytes", sys.maxsize))
    for name, recorded in lineage.evaluation.items():
        if isinstance(recorded, Mapping) and "value" in recorded:
            yield f"metric {name}", recorded["value"], fitted["evaluation"][name]["value"]
    if exact:
        for name, recorded in sorted(lineage.files.items()):
            if name != BILL_OF_MATERIALS:
                yield f"sealed {name}", recorded, fitted["files"].get(name)


def _inputs(
    use_case: UseCase, settings: Settings, feature_repo: Path, lineage: Lineage, any_code: bool
) -> Iterator[tuple[str, Any, Any]]:
    if not any_code:
        yield from _code(lineage, feature_repo)
    # Why just these files were taken is no part of the declarations, and they are compared themselves.
    chosen = {name: text for name, text in lineage.declarations.items() if name.startswith("data choice")}
    said = declarations(use_case) | chosen
    for name in dict.fromkeys((*lineage.declarations, *said)):
        if _is_other_candidate(name, candidates_in(_trial(lineage))):
            continue
        yield f"use case, {name}", lineage.declarations.get(name), said.get(name)
    definitions = Pipeline(use_case, settings, feature_repo).definitions()
    digest = definitions.digest if definitions else digest_json({})
    yield "feature definitions", lineage.feature_definitions, digest
    for name, files in lineage.source_files.items():
        try:
            root = Artifacts(settings.artifacts).root
            there = find_files(settings.data, name, use_case.sources[name], artifacts=root)
            found = {file.name: file.sha256 for file in there}
        except DataError:
            found = {}
        for file in sorted({*files, *found}):
            yield f"source file {file} of {name}", files.get(file), found.get(file)


def _code(lineage: Lineage, folder: Path) -> Iterator[tuple[str, Any, Any]]:
    """The commit says which code it is; where files differed from their commit, the digest of the files does."""
    here = code_version(folder)
    same_files = lineage.code == code_digest("mlops_ray")
    if not same_files or lineage.code_version != here.commit:
        recorded = replace(here, commit=lineage.code_version, dirty=lineage.code_dirty)
        yield "code version", str(recorded), str(here)
        yield "framework", lineage.framework, framework_version()
        yield "code", lineage.code, code_digest("mlops_ray")


def _trial(lineage: Lineage) -> Trial:
    return Trial(lineage.candidate, 0, lineage.parameters)


def _is_other_candidate(name: str, fitted: tuple[str, ...]) -> bool:
    return name.startswith("candidate ") and name.removeprefix("candidate ") not in fitted


def _same(recorded: Any, found: Any, tolerance: float) -> bool:
    if isinstance(recorded, float) and isinstance(found, float):
        return abs(recorded - found) <= tolerance * max(1.0, abs(recorded))
    return bool(recorded == found)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = str(value)
    return f"{text[:16]}…" if len(text) == 64 and " " not in text else text
