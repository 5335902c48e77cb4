"""OpenLineage: a version's lineage as the run events that lineage servers read.

https://openlineage.io/spec/2-0-2/OpenLineage.json and the facets beside it describe them. There is a run for each step,
below one for the pipeline; the record does not say when each began, so all carry the moment of registration. What no
published facet holds stands in facets of our own, whose names begin with `mlopsRay_`.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from mlops_ray.registry.lineage import Lineage
from mlops_ray.registry.trace import Trace

PRODUCER = "https://pypi.org/project/mlops-ray/"
NAMESPACE = "mlops_ray"
_SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs"
_FACETS = "https://openlineage.io/spec/facets"


def run_events(found: Trace, time: str) -> Iterator[dict[str, Any]]:
    """START and COMPLETE of each step's run, in order. time: of the registration, RFC 3339."""
    lineage = found.lineage
    pipeline = f"{lineage.use_case}.pipeline"
    parent = {"run": {"runId": _run_id(found, "pipeline")}, "job": {"namespace": NAMESPACE, "name": pipeline}}
    for step, inputs, outputs in _steps(found):
        run_facets = {
            "parent": _facet("1-0-1", "ParentRunFacet", **parent),
            "processing_engine": _facet("1-1-0", "ProcessingEngineRunFacet", version=lineage.python, name="python"),
            "mlopsRay_code": _own_facet("RunFacet", **_code(lineage)),
        }
        if step == "train":
            values = [{"key": name, "value": value} for name, value in lineage.parameters.items()]
            run_facets["jobRunParameters"] = _facet("1-0-0", "JobRunParametersFacet", parameters=values)
            run_facets["mlopsRay_search"] = _own_facet("RunFacet", **_search(lineage))
        job_facets = {
            "jobType": _facet(
                "2-0-3", "JobTypeJobFacet", processingType="BATCH", integration="MLOPS_RAY", jobType="TASK"
            )
        }
        if lineage.owner:
            job_facets["ownership"] = _facet("1-0-0", "OwnershipJobFacet", owners=[{"name": lineage.owner}])
        if lineage.purpose:
            job_facets["documentation"] = _facet("1-0-0", "DocumentationJobFacet", description=lineage.purpose)
        for kind in ("START", "COMPLETE"):
            yield {
                "eventType": kind,
                "eventTime": time,
                "run": {"runId": _run_id(found, step), "facets": run_facets},
                "job": {"namespace": NAMESPACE, "name": f"{lineage.use_case}.{step}", "facets": job_facets},
                "inputs": inputs,
                "outputs": outputs,
                "producer": PRODUCER,
                "schemaURL": f"{_SPEC}/RunEvent",
            }


def _steps(found: Trace) -> Iterator[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """(name, inputs, outputs) of each step."""
    lineage, case = found.lineage, found.use_case
    raw = [
        _dataset(*_place(lineage.data, name), digest)
        for files in lineage.source_files.values()
        for name, digest in files.items()
    ]
    snapshot = _dataset(NAMESPACE, f"{case}.snapshot", lineage.snapshot)
    views = [_dataset(NAMESPACE, f"{case}.features.{view}", digest) for view, digest in lineage.feature_rows.items()]
    training_set = _dataset(NAMESPACE, f"{case}.training_set", lineage.training_set)
    model = _dataset(NAMESPACE, f"{case}.model", lineage.digest)
    counted = {
        "outputStatistics": _facet("1-0-2", "OutputStatisticsOutputDatasetFacet", rowCount=lineage.training_rows)
    }
    metrics = {name: value for name, value in lineage.evaluation.items() if isinstance(value, Mapping | int | float)}
    facets = model["facets"] | {
        "mlopsRay_model": _own_facet("DatasetFacet", modelVersion=found.version, record=found.record, metrics=metrics)
    }
    yield "ingest", raw, [snapshot]
    if views:
        yield "features", [snapshot], views
    yield "training_set", [snapshot, *views], [training_set | {"outputFacets": counted}]
    yield "train", [training_set], [model | {"facets": facets}]


def _code(lineage: Lineage) -> dict[str, Any]:
    names = ("code_version", "code_dirty", "code", "lock_file", "python", "platform", "contract", "as_of")
    return {name: getattr(lineage, name) for name in names}


def _search(lineage: Lineage) -> dict[str, Any]:
    trials = [{"trial": one.trial_id, "run": one.run, "value": one.value} for one in lineage.trials]
    names = ("candidate", "seed", "threads", "metric", "parent_run", "trial_run", "feature_definitions")
    return {name: getattr(lineage, name) for name in names} | {"trials": trials}


def _dataset(namespace: str, name: str, version: str) -> dict[str, Any]:
    facets = {"version": _facet("1-0-0", "DatasetVersionDatasetFacet", datasetVersion=version)}
    return {"namespace": namespace, "name": name, "facets": facets}


def _place(folder: str, file: str) -> tuple[str, str]:
    """Namespace and name of a file by OpenLineage's rules: `file` and the path, or the bucket's URL and the key."""
    parts = urlsplit(folder)
    if parts.scheme in ("", "file"):
        return "file", f"{parts.path}/{file}"
    return f"{parts.scheme}://{parts.netloc}", f"{parts.path}/{file}".lstrip("/")


def _run_id(found: Trace, step: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"{found.record}/{found.use_case}@{found.version}/{step}"))


def _facet(version: str, name: str, /, **values: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{_FACETS}/{version}/{name}.json#/$defs/{name}", **values}


def _own_facet(kind: str, /, **values: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{_SPEC}/{kind}", **values}
