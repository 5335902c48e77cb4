"""Records: what each run of a step left, by its key, and which was the last."""

from dataclasses import asdict, dataclass
from typing import Any

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.pipeline.steps.step import StepName

_LAST = "last.json"


@dataclass(frozen=True)
class Record:
    """A step's run. depends_on: its inputs and code (Step.depends_on), whose digest is the key. result: None until
    it ends. attempt: how often the step was made to run although nothing had changed."""

    key: str
    depends_on: Any
    attempt: int = 0
    result: Any = None

    @property
    def run_key(self) -> str:
        """The name of this run to the outside, such as the search's in MLflow: another for each attempt."""
        return self.key if self.attempt == 0 else digest_json([self.key, self.attempt])


@dataclass(frozen=True)
class Records:
    """The records of one use case, below the artifact root."""

    artifacts: Artifacts
    use_case: str

    def find(self, step: StepName, key: str) -> Record | None:
        found = self.artifacts.read_json(*self._folder(step), f"{key}.json")
        return Record(**found) if found is not None else None

    def last(self, step: StepName) -> Record | None:
        """Of the run whose result counted last, whether it ran or was reused; None if the step never ended."""
        key = self._last_key(step)
        return self.find(step, key) if key is not None else None

    def write(self, step: StepName, record: Record) -> None:
        self.artifacts.write_json(asdict(record), *self._folder(step), f"{record.key}.json")

    def set_last(self, step: StepName, key: str) -> None:
        if self._last_key(step) != key:
            self.artifacts.write_json({"key": key}, *self._folder(step), _LAST)

    def _last_key(self, step: StepName) -> str | None:
        found = self.artifacts.read_json(*self._folder(step), _LAST)
        return None if found is None else str(found["key"])

    def _folder(self, step: StepName) -> tuple[str, ...]:
        return ("pipeline", self.use_case, step)
