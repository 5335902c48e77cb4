"""The fence around a step that copies rows: what it wrote while a person was erased may be theirs, and does not stay.

A step reads rows that are there, and writes others later. If the last look of an erasure (`begin_erasing`) was between,
neither has seen the other; if it was not, all that the step wrote was there for that look to find.
"""

from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConflictError
from mlops_ray.governance.erased_rows import last_erasure
from mlops_ray.pipeline.steps.step import Step, Where


def run_fenced(artifacts: Artifacts, step: Step, inputs: Any, where: Where) -> dict[str, Any]:
    """What the step gives. Raises ConflictError where somebody was erased meanwhile; the tables that it wrote are gone
    then."""
    began = last_erasure(artifacts)
    result = step.run(inputs, where)
    if step.rows_at is None or last_erasure(artifacts) == began:
        return result
    tables = step.rows_at(inputs, result)
    for place in tables:
        artifacts.delete(*place)
    raise ConflictError(
        f"Rows of a person were erased while step {step.name} ran, and may be among those that it had read. "
        + (
            "What it wrote is deleted: run it again when `mlops-ray data erase` has ended."
            if tables
            else "They may be in the online store again: run `mlops-ray data erase` for them again, and then this."
        )
    )
