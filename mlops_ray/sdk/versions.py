"""Versions of a use case, as a notebook shows them."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import nan
from typing import TYPE_CHECKING

import polars as pl

from mlops_ray.errors import ConfigurationError
from mlops_ray.evaluation.report import EvaluationReport
from mlops_ray.registry.version_list import ListedVersion
from mlops_ray.sdk.records import Records
from mlops_ray.show.charts import sparkline
from mlops_ray.show.document import table, unbroken
from mlops_ray.show.evaluation import STYLE
from mlops_ray.show.shown import Shown
from mlops_ray.show.text import columns
from mlops_ray.tasks.evaluation import metric_words

if TYPE_CHECKING:
    from mlops_ray.registry.trace import Trace

_HEADS = ("version", "standing", "candidate", "metric", "on the test period", "rows", "registered (UTC)", "by")


class Version(Shown):
    """A registered version. `about` has its digest, author, gates and standing; it shows its model card."""

    def __init__(self, about: ListedVersion, records: Records):
        self.about, self._records = about, records

    @property
    def use_case(self) -> str:
        return self.about.use_case

    @property
    def number(self) -> int:
        return self.about.version

    @property
    def name(self) -> str:
        """Such as flights@7."""
        return f"{self.use_case}@{self.number}"

    def lineage(self) -> "Trace":
        """Everything behind it, back to the raw files, as a graph and a tree."""
        return self._records.lineage(self.name)

    def evaluation(self) -> EvaluationReport:
        """How it did on its test period."""
        made_from = self.lineage().lineage
        return EvaluationReport(self.use_case, made_from.candidate, made_from.metric, made_from.evaluation)

    @property
    def title(self) -> str:
        return f"{self.use_case}, version {self.number}"

    _style = STYLE

    def _html(self) -> str:
        from mlops_ray.registry.model_card import card_body

        return card_body(self.lineage())

    def _text(self) -> str:
        return columns(_HEADS, [_cells(self.about)])


class Versions(Shown, Mapping[int, Version]):
    """The versions of a use case by their numbers, newest first."""

    def __init__(self, use_case: str, listed: Sequence[ListedVersion], records: Records):
        self.use_case, self._listed = use_case, listed
        self._found = {one.version: Version(one, records) for one in listed}

    def __getitem__(self, number: int) -> Version:
        if number not in self._found:
            there = ", ".join(map(str, self._found)) or "none"
            raise ConfigurationError(f"{self.use_case} has no version {number} here; there are: {there}.")
        return self._found[number]

    def __contains__(self, number: object) -> bool:
        return number in self._found

    def __iter__(self) -> Iterator[int]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @property
    def newest(self) -> Version:
        """The last registered. Raises ConfigurationError where there is none."""
        if not self._found:
            raise ConfigurationError(
                f"{self.use_case} has no version yet. Run its pipeline: mr.run({self.use_case!r})."
            )
        return next(iter(self._found.values()))

    @property
    def champion(self) -> Version:
        """The one that answers. Raises ConfigurationError where there is none."""
        for one in self._found.values():
            if one.about.part == "champion":
                return one
        newest = f"version {self.newest.number} is {self.newest.about.standing}"
        raise ConfigurationError(f"{self.use_case} has no champion: {newest}. Approve it, or see why its gates failed.")

    @property
    def frame(self) -> pl.DataFrame:
        """A row for each version."""
        return pl.DataFrame(
            [one.to_json() | {"standing": one.standing} for one in self._listed], infer_schema_length=None
        )

    @property
    def title(self) -> str:
        return f"{self.use_case}: versions"

    def _html(self) -> str:
        if not self._listed:
            return f"<h1>{escape(self.title)}</h1><p>None was registered yet.</p>"
        in_time = [nan if one.value is None else one.value for one in self._listed[::-1]]
        metric = metric_words(self._listed[0].metric)
        line = sparkline(in_time, f"{metric} of each version, on test periods of their own")
        rows = [tuple(map(unbroken, _cells(one))) for one in self._listed]
        return f"<h1>{escape(self.title)}</h1>{line}{table(_HEADS, rows)}"

    def _text(self) -> str:
        if not self._listed:
            return f"{self.use_case} has no version yet."
        return columns(_HEADS, [_cells(one) for one in self._listed])


def _cells(one: ListedVersion) -> tuple[str, ...]:
    interval = f" ({one.low:.4f} to {one.high:.4f})" if one.low is not None and one.high is not None else ""
    value = "" if one.value is None else f"{one.value:.4f}{interval}"
    when = f"{one.registered_at:%Y-%m-%d %H:%M}"
    rows = f"{one.training_rows:,}" if one.training_rows else ""
    return str(one.version), one.standing, one.candidate, metric_words(one.metric), value, rows, when, one.author
