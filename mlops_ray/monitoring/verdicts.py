"""Verdicts: the answer to one question about one window, with its reason and what it is based on."""

from dataclasses import dataclass
from datetime import datetime
from math import nan
from typing import Literal

from mlops_ray.use_case import Question as Question

Answer = Literal["drift", "no drift", "not enough data"]


@dataclass(frozen=True)
class Finding:
    """One statistic above its threshold. importance: the column's share of the model's importance, 0 to 1, or NaN."""

    column: str
    detector: str
    value: float
    threshold: float
    score: float
    importance: float
    shift: str


@dataclass(frozen=True)
class Verdict:
    """The answer to one question about one window, with its reason.

    findings: worst first. importance: what the drifted columns have together, NaN where not known. effect: how far the
    mean answer of the window is from the reference's, in standard deviations of answers; quality: by how much better
    its answers are expected to be than the reference's, in `metric`: a ROC AUC by a difference, an error by its share;
    both NaN where not known. acts: whether the reference is long
    enough for somebody to act on it. rate: the chance of a false alarm that it had.
    """

    question: Question
    answer: Answer
    start: datetime
    end: datetime
    rows: int
    findings: tuple[Finding, ...]
    importance: float
    reason: str
    effect: float = nan
    quality: float = nan
    acts: bool = True
    rate: float = 0.0
    metric: str = "roc_auc"


def not_judged(question: Question, start: datetime, end: datetime, rows: int, why: str = "") -> Verdict:
    """ "Not enough data", and why."""
    return Verdict(question, "not enough data", start, end, rows, (), nan, why)


@dataclass(frozen=True)
class Basis:
    """What a verdict is based on; see `Verdict`."""

    effect: float = nan
    quality: float = nan
    acts: bool = True
    rate: float = 0.0
    metric: str = "roc_auc"

    @classmethod
    def of(cls, verdict: Verdict) -> "Basis":
        return cls(verdict.effect, verdict.quality, verdict.acts, verdict.rate, verdict.metric)


def verdict_of(
    question: Question, start: datetime, end: datetime, rows: int, findings: list[Finding], basis: Basis
) -> Verdict:
    """Drift if anything was found, named after the worst."""
    ordered = tuple(sorted(findings, key=lambda finding: (-finding.score, finding.column, finding.detector)))
    columns = {finding.column: finding.importance for finding in ordered}
    reason = "No statistic is above its threshold."
    if ordered:
        worst = ordered[0]
        reason = (
            f"{worst.column}: {worst.shift} ({worst.detector} {worst.value:.3g}, threshold {worst.threshold:.3g})"
            f"{f', and {len(columns) - 1} more' if len(columns) > 1 else ''}."
        )
    return Verdict(
        question, "drift" if ordered else "no drift", start, end, rows, ordered, float(sum(columns.values())), reason,
        basis.effect, basis.quality, basis.acts, basis.rate, basis.metric,
    )  # fmt: skip
