"""An empty use case: all that has to be said, with what is only an example marked, for data that is not there yet."""

from dataclasses import dataclass

from mlops_ray.scaffold.draft_label import Kind
from mlops_ray.scaffold.rendering import EMPTY, Answers

# By the kind of label: the type of its column, the task, the metric, and a candidate beside trees, as code.
_OF: dict[Kind, tuple[str, str, str, str]] = {
    "binary": ("boolean", "", "roc_auc", "LogisticRegression"),
    "multiclass": ("text", 'MultiClass(("first", "second", "third"))', "log_loss", "LogisticRegression"),
    "regression": ("number", "Regression()", "root_mean_squared_error", "LinearRegression"),
}


@dataclass(frozen=True)
class EmptyUseCase:
    """label, time: the columns' names, if they are known. data: absolute folder of the raw files to come."""

    name: str
    data: str
    label: str
    time: str
    task: Kind
    owner: str

    def answers(self) -> Answers:
        """As `rendering.answers_of` gives them for files that were looked at."""
        kind, task, metric, linear = _OF[self.task]
        return {
            "template": EMPTY,
            "draft": {
                "name": self.name,
                "asked": {"label": self.label, "time": self.time, "owner": self.owner},
                "label": {"type": kind, "task": task, "metric": metric, "candidates": ["GradientBoosting", linear]},
            },
            "data": self.data,
            "purpose": "",
        }
