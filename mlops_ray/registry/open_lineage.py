"""OpenLineage: a version's lineage as the run events that lineage servers read (https://openlineage.io).

There is a run for each step, below one for the pipeline; the record does not say when each began, so all carry the
moment of registration. What no published facet holds stands in facets of our own, whose names begin with `mlopsRay_`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
    dataset_version_dataset,
    documentation_job,
    execution_parameters_run,
    job_type_job,
    output_statistics_output_dataset,
    ownership_job,
    parent_run,
    processing_engine_run,
)
from openlineage.client.serde import Serde

from mlops_ray.registry.lineage import Lineage
from mlops_ray.registry.trace import Trace

PRODUCER = "https://pypi.org/project/mlops-ray/"
NAMESPACE = "mlops_ray"
Facet = TypeVar("Facet", RunFacet, DatasetFacet)


def run_events(found: Trace, time: str) -> Iterator[dict[str, Any]]:
    """START and COMPLETE of each step's run, in order. time: of the registration, RFC 3339."""
    for step, inputs, outputs in _steps(found):
        run = Run(_run_id(found, step), _run_facets(found, step))
        job = Job(NAMESPACE, f"{found.use_case}.{step}", _job_facets(found.lineage))
        for state in (RunState.START, RunState.COMPLETE):
            yield Serde.to_dict(
                RunEvent(
                    eventType=state,
                    eventTime=time,
                    run=run,
                    job=job,
                    inputs=inputs,
                    outputs=outputs,
                    producer=PRODUCER,
                )
            )


def _steps(found: Trace) -> Iterator[tuple[str, list[InputDataset], list[OutputDataset]]]:
    """(name, inputs, outputs) of each step."""
    lineage, case = found.lineage, found.use_case
    files = [file for by_name in lineage.source_files.values() for file in by_name.items()]
    raw = [InputDataset(*_place(lineage.data, name), facets=_version(digest)) for name, digest in files]
    snapshot = (NAMESPACE, f"{case}.snapshot"), _version(lineage.snapshot)
    views = [
        ((NAMESPACE, f"{case}.features.{view}"), _version(digest)) for view, digest in lineage.feature_rows.items()
    ]
    training_set = (NAMESPACE, f"{case}.training_set"), _version(lineage.training_set)
    counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=lineage.training_rows, producer=PRODUCER
    )
    yield "ingest", raw, _outputs(snapshot)
    if views:
        yield "features", _inputs(snapshot), _outputs(*views)
    filled = OutputDataset(*training_set[0], facets=training_set[1], outputFacets={"outputStatistics": counted})
    yield "training_set", _inputs(snapshot, *views), [filled]
    model = (NAMESPACE, f"{case}.model"), _version(lineage.digest) | {"mlopsRay_model": _model(found)}
    yield "train", _inputs(training_set), _outputs(model)


def _run_facets(found: Trace, step: str) -> dict[str, RunFacet]:
    lineage = found.lineage
    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(_run_id(found, "pipeline")),
        job=parent_run.Job(NAMESPACE, f"{found.use_case}.pipeline"),
        producer=PRODUCER,
    )
    python = processing_engine_run.ProcessingEngineRunFacet(lineage.python, "python", producer=PRODUCER)
    facets: dict[str, RunFacet] = {
        "parent": parent,
        "processing_engine": python,
        "mlopsRay_code": _own(RunFacet, **_code(lineage)),
    }
    if step == "train":
        values = [
            execution_parameters_run.ExecutionParameter(name, value=str(value))
            for name, value in lineage.parameters.items()
        ]
        facets["executionParameters"] = execution_parameters_run.ExecutionParametersRunFacet(values, producer=PRODUCER)
        facets["mlopsRay_search"] = _own(RunFacet, **_search(lineage))
    return facets


def _job_facets(lineage: Lineage) -> dict[str, JobFacet]:
    facets: dict[str, JobFacet] = {
        "jobType": job_type_job.JobTypeJobFacet("BATCH", "MLOPS_RAY", "TASK", producer=PRODUCER)
    }
    if lineage.owner:
        owners = [ownership_job.Owner(lineage.owner)]
        facets["ownership"] = ownership_job.OwnershipJobFacet(owners, producer=PRODUCER)
    if lineage.purpose:
        facets["documentation"] = documentation_job.DocumentationJobFacet(lineage.purpose, producer=PRODUCER)
    return facets


def _code(lineage: Lineage) -> dict[str, Any]:
    names = ("code_version", "code_dirty", "framework", "code", "lock_file", "python", "platform", "contract", "as_of")
    return {name: getattr(lineage, name) for name in names}


def _search(lineage: Lineage) -> dict[str, Any]:
    trials = [{"trial": one.trial_id, "run": one.run, "value": one.value} for one in lineage.trials]
    names = ("candidate", "seed", "threads", "metric", "parent_run", "trial_run", "feature_definitions")
    return {name: getattr(lineage, name) for name in names} | {"trials": trials}


def _model(found: Trace) -> DatasetFacet:
    evaluation = found.lineage.evaluation
    metrics = {name: value for name, value in evaluation.items() if isinstance(value, Mapping | int | float)}
    return _own(DatasetFacet, modelVersion=found.version, record=found.record, metrics=metrics)


def _own(kind: type[Facet], **values: Any) -> Facet:
    return cast(Facet, kind(producer=PRODUCER).with_additional_properties(**values))


_Dataset = tuple[tuple[str, str], dict[str, DatasetFacet]]


def _inputs(*datasets: _Dataset) -> list[InputDataset]:
    return [InputDataset(*place, facets=facets) for place, facets in datasets]


def _outputs(*datasets: _Dataset) -> list[OutputDataset]:
    return [OutputDataset(*place, facets=facets) for place, facets in datasets]


def _version(digest: str) -> dict[str, DatasetFacet]:
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(digest, producer=PRODUCER)}


def _place(folder: str, file: str) -> tuple[str, str]:
    """Namespace and name of a file by OpenLineage's rules: `file` and the path, or the bucket's URL and the key."""
    parts = urlsplit(folder)
    if parts.scheme in ("", "file"):
        return "file", f"{parts.path}/{file}"
    return f"{parts.scheme}://{parts.netloc}", f"{parts.path}/{file}".lstrip("/")


def _run_id(found: Trace, step: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"{found.record}/{found.use_case}@{found.version}/{step}"))
