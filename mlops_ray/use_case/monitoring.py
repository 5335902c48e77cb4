"""Monitoring: how predictions are watched."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from typing import Any, Literal, get_args

from mlops_ray.errors import UseCaseError, nearest
from mlops_ray.use_case.declared_types import expect_types
from mlops_ray.use_case.window_spec import WindowSpec

Question = Literal["data", "prediction", "concept"]
Season = Literal["hour", "weekday", "hour_of_week", "month"]
NumberDetector = Literal["kolmogorov_smirnov", "wasserstein", "jensen_shannon", "psi"]
CategoryDetector = Literal["jensen_shannon", "chi_squared", "psi"]
ErrorDetector = Literal["adwin", "page_hinkley"]


@dataclass(frozen=True)
class Monitoring:
    """How predictions are watched. It is sealed with each model, and holds until another is set for the use case.

    windows: the stretches of predictions that are judged; quality is estimated as the first kind has it. seasonal:
    features that are compared with the same hour of the day (UTC), day of the week, hour of the week or month of the
    reference; in others a daily and weekly cycle is found by itself. false_alarm_days: the promise, at most one false
    alarm about the endpoint in so many days, over all questions, features and kinds of windows, at any traffic. slices:
    request columns or features whose values are judged for themselves once labels come; None for the use case's
    `slices`. segments: by category the features that are also compared for themselves among the predictions of each of
    its values, as `{"carrier": ("distance", "hour")}`: of the 20 most frequent with 1 % of the rows or more.

    number_detector, category_detector: how far a window is from the reference, as `NumberDetector` and
    `CategoryDetector` name it, or a detector of your own as "package.module:Class". domain_classifier: also whether a
    classifier tells their rows apart, which shows features that go together in a new way; it makes sealing some
    seconds longer, and seals a sample of rows. error_detectors: also follow the errors as a stream, beyond windows.

    labels_count_for: how long after a prediction its label may come; later ones are counted, but change nothing.
    labels_complete_after: so long after, all labels that ever come have come, and those that are missing say nothing by
    being missing. Until then a window is judged by its labels only as far as the missing ones cannot change it. None:
    `labels_count_for`.
    """

    windows: tuple[WindowSpec, ...] = (WindowSpec(rows=5_000), WindowSpec(length=timedelta(days=7)))
    seasonal: Mapping[str, Season] = field(default_factory=dict)
    false_alarm_days: int = 30
    slices: tuple[str, ...] | None = None
    segments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    number_detector: str = "kolmogorov_smirnov"
    category_detector: str = "jensen_shannon"
    domain_classifier: bool = False
    error_detectors: tuple[ErrorDetector, ...] = ()
    labels_count_for: timedelta = timedelta(days=90)
    labels_complete_after: timedelta | None = None

    def __post_init__(self) -> None:
        expect_types(self, "Monitoring")
        for name, choices in (("number_detector", NumberDetector), ("category_detector", CategoryDetector)):
            if (value := getattr(self, name)) not in get_args(choices) and ":" not in value:
                raise UseCaseError(f"Monitoring: {name} is {value!r}. {nearest(value, get_args(choices))}")
        if not self.windows or len({spec.name for spec in self.windows}) != len(self.windows):
            raise UseCaseError("Monitoring needs at least one kind of window, and each kind once.")
        if self.false_alarm_days < 1:
            raise UseCaseError(f"Monitoring: false_alarm_days is {self.false_alarm_days}; it must be 1 or more.")
        complete_after = self.labels_complete_after or self.labels_count_for
        if not timedelta() < complete_after <= self.labels_count_for:
            raise UseCaseError(
                f"Monitoring: labels count for {self.labels_count_for} and are complete after {complete_after}; it "
                f"must be 0 < labels_complete_after <= labels_count_for."
            )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; lengths of time in seconds. Segments stand there where there are any: the release
        before knows of none."""
        shown = asdict(self) | {"windows": [spec.to_json() for spec in self.windows]}
        segments = {name: list(features) for name, features in shown.pop("segments").items()}
        shown |= {"segments": segments} if segments else {}
        for name in _TIMES:
            length: timedelta | None = shown.pop(name)
            shown[f"{name}_s"] = None if length is None else length.total_seconds()
        slices = None if self.slices is None else list(self.slices)
        return shown | {"slices": slices, "error_detectors": list(self.error_detectors)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Monitoring":
        """What `to_json` gave; what is not there is as by default. Raises UseCaseError for what it does not know."""
        names = {f"{one.name}_s" if one.name in _TIMES else one.name for one in fields(cls)}
        if unknown := sorted(value.keys() - names):
            raise UseCaseError(f"Monitoring knows no {unknown[0]!r}. Known: {', '.join(sorted(names))}.")
        parts: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
        try:
            if "windows" in parts:
                parts["windows"] = tuple(map(WindowSpec.from_json, parts["windows"]))
            if "segments" in parts:
                parts["segments"] = {name: tuple(features) for name, features in parts["segments"].items()}
            for name in _TIMES:
                if f"{name}_s" in parts:
                    length_s = parts.pop(f"{name}_s")
                    parts[name] = None if length_s is None else timedelta(seconds=length_s)
        except (TypeError, KeyError, AttributeError) as error:
            raise UseCaseError(
                f"Monitoring cannot be read: {error!r}. `monitoring show --json` has its form."
            ) from error
        return cls(**parts)


_TIMES = ("labels_count_for", "labels_complete_after")
