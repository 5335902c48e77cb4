"""Ingest: the raw files through the column contract into a snapshot."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.exploration.kept import declare_open_columns, keep_profile
from mlops_ray.import_closure import our_code
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.more_columns import columns_of_last_ingest, new_columns
from mlops_ray.ingestion.snapshot import MANIFEST, SNAPSHOTS, retired
from mlops_ray.pipeline.fingerprint import fingerprint
from mlops_ray.pipeline.part import part
from mlops_ray.pipeline.steps.step import Given, Step, Where
from mlops_ray.pipeline.task import say_if_it_waits
from mlops_ray.use_case import Expectations, Source, UseCase

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestInputs:
    """files: the SHA-256 of each raw file, by source and name. as_of: None for the latest moment in the data."""

    use_case: UseCase
    files: Mapping[str, Mapping[str, str]]
    as_of: datetime | None


def ingest_inputs(given: Given) -> IngestInputs:
    files = {source: {file.name: file.sha256 for file in found} for source, found in given.files.items()}
    return IngestInputs(part(given.use_case, "name", "sources"), files, given.as_of)


def run_ingest(inputs: IngestInputs, where: Where) -> dict[str, Any]:
    case, ready = inputs.use_case, partial(say_if_it_waits, where, "ingest")
    contracts = {name: contract(source) for name, source in case.sources.items()}
    artifacts = Artifacts(where.settings.artifacts)
    before = columns_of_last_ingest(artifacts, case.name)
    snapshot = ingest(case, where.settings, inputs.as_of, str(where.code), contracts, where.files, ready)
    declare_open_columns(artifacts, case.name, case.sources)
    changes = [*new_columns(snapshot, before), *keep_profile(artifacts, snapshot, ready)]
    for change in changes:
        _logger.info("%s", change)
    return snapshot.to_json() | {"changes": changes}


def contract(source: Source) -> str:
    """A digest of all that the judgement of a file's rows depends on beside the file: declaration, code, libraries."""
    row_by_row = replace(source, expects=Expectations(), last_known=())
    return fingerprint([row_by_row, our_code("mlops_ray.ingestion.judged", "judge_file").to_json()])


def verify_ingest(inputs: IngestInputs, result: Mapping[str, Any], where: Where) -> str | None:
    artifacts, name, digest = Artifacts(where.settings.artifacts), inputs.use_case.name, str(result["digest"])
    if artifacts.read_json(SNAPSHOTS, name, digest, MANIFEST) is None:
        return f"snapshot {digest[:12]} is not below {where.settings.artifacts} any more"
    mark = retired(artifacts, name, digest)
    return f"snapshot {digest[:12]} was retired by {mark.by} at {mark.at}" if mark else None


INGEST = Step("ingest", ingest_inputs, run_ingest, verify_ingest)
