"""Gates: the rules of a use case that a version must pass, and what each of them found."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from mlops_ray.evaluation.comparison import Comparison, verdict
from mlops_ray.evaluation.fairness import GroupCounts, widest_spread
from mlops_ray.evaluation.slices import SliceEvaluation
from mlops_ray.tasks.estimate import CONFIDENCE, FEWEST_BLOCKS, Estimate
from mlops_ray.tasks.evaluation import Evaluation
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import (
    BetterThanBaseline,
    BetterThanChampion,
    Fairness,
    Gate,
    Latency,
    NoSliceWorse,
    NoVulnerability,
    OnnxParity,
    Plausible,
    Threshold,
)

Severity = Literal["unknown", "low", "medium", "high", "critical"]
_SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")
# How likely a gate over several slices or groups is to fail where none of them is worse than it allows.
LEVEL = 1 - CONFIDENCE
_ON_THE_TEST_PERIOD = (Threshold, NoSliceWorse, BetterThanChampion, BetterThanBaseline, Fairness, Plausible)


@dataclass(frozen=True)
class Finding:
    """One advisory that affects the version: id as published, and the package or file that it is about."""

    advisory: str
    subject: str
    severity: Severity
    where: Literal["artifact", "environment"]


@dataclass(frozen=True)
class Measured:
    """What is known of a version when its gates are judged; None where it was not measured.

    task: the kind of its label, which says of which metrics less is better.
    slices: those with enough rows, and left_out: the number of the others; counts: of their groups, by column.
    comparisons: with the champion, by metric; None where there is no champion; uncompared: why one is missing.
    baselines: with what is answered without a model, by `baseline_name`. alone:
    the ROC AUC of each feature by itself, and importance: what a model without it loses. uses: how often decisions were
    made on the test period, this one included. findings: of the vulnerability scan, empty for a clean one.
    """

    task: Task
    evaluation: Evaluation
    slices: Sequence[SliceEvaluation] = ()
    left_out: int = 0
    counts: Sequence[GroupCounts] = ()
    comparisons: Mapping[str, Comparison] | None = None
    uncompared: str = "The champion was not asked about these rows."
    baselines: Mapping[str, Comparison] = field(default_factory=dict)
    alone: Mapping[str, float] | None = None
    importance: Mapping[str, float] | None = None
    uses: int = 1
    onnx_max_difference: float | None = None
    latency_ms: float | None = None
    findings: Sequence[Finding] | None = None


@dataclass(frozen=True)
class GateResult:
    """value: what was found, limit: what was asked for, sentence: both, for people. blocks: a failure matters."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    sentence: str
    blocks: bool = True


def judge(gates: Iterable[Gate], measured: Measured, now: datetime) -> tuple[GateResult, ...]:
    """The result of each gate, in their order. A gate whose value was not measured fails.

    now: the moment for which waivers count.
    """
    return tuple(_with_uses(gate, _judge(gate, measured, now), measured.uses) for gate in gates)


def _with_uses(gate: Gate, result: GateResult, uses: int) -> GateResult:
    """What is tried often enough on the same rows succeeds on them at last, better or not: so the number is said."""
    if uses < 2 or not isinstance(gate, _ON_THE_TEST_PERIOD):
        return result
    return replace(result, sentence=f"{result.sentence} Decision {uses} on days of this test period.")


def _judge(gate: Gate, measured: Measured, now: datetime) -> GateResult:
    match gate:
        case Threshold():
            return _threshold(gate, measured)
        case NoSliceWorse():
            return _no_slice_worse(gate, measured)
        case BetterThanChampion():
            return _better_than_champion(gate, measured)
        case BetterThanBaseline():
            return _better_than_baseline(gate, measured)
        case OnnxParity():
            what = "The exported model's largest difference from the trained one"
            return _at_most("onnx parity", gate, measured.onnx_max_difference, gate.limit, what, "")
        case Latency():
            what = "The median time for one row"
            return _at_most("latency", gate, measured.latency_ms, gate.limit_ms, what, " ms")
        case Fairness():
            return _fairness(gate, measured)
        case Plausible():
            return _plausible(gate, measured)
        case NoVulnerability():
            return _no_vulnerability(gate, measured, now)


def _threshold(gate: Threshold, measured: Measured) -> GateResult:
    value, lower = measured.evaluation[gate.metric].value, measured.task.metrics[gate.metric].lower_is_better
    passed = value <= gate.limit if lower else value >= gate.limit
    sentence = f"{gate.metric} is {value:.4f} ({'at most' if lower else 'at least'} {gate.limit:g} is asked for)."
    return GateResult(f"{gate.metric} on the test period", passed, value, gate.limit, sentence, gate.blocks)


def _no_slice_worse(gate: NoSliceWorse, measured: Measured) -> GateResult:
    """The slice least likely to be as bad by chance, with Bonferroni's correction for their number.

    That is the first step of Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6, 1979, and no further one changes whether any slice is worse. The level holds however they depend.
    """
    name, lower = f"{gate.metric} of every slice", measured.task.metrics[gate.metric].lower_is_better
    found = [(one, one.evaluation[gate.metric]) for one in measured.slices]
    judged = [
        (_p_worse(estimate, gate.limit, lower), estimate.value * (-1 if lower else 1), one)
        for one, estimate in found
        if estimate.error is not None
    ]
    unjudged = measured.left_out + len(found) - len(judged)
    others = f" {unjudged} others have too few rows or days to be judged." if unjudged else ""
    if not judged:
        sentence = f"Not measured: no slice has enough rows and days ({FEWEST_BLOCKS} or more) to be judged.{others}"
        return GateResult(name, False, None, gate.limit, sentence, gate.blocks)
    by_chance, _, worst = min(judged, key=lambda one: one[:2])
    p, value = min(1.0, len(judged) * by_chance), worst.evaluation[gate.metric].value
    passed = p > LEVEL
    sentence = (
        f"Of {len(judged)} slices {worst.column}={worst.value} has most against it: {gate.metric} is {value:.4f} "
        f"({'at most' if lower else 'at least'} {gate.limit:g} is asked for), and {_chance(p)} of sets of so many "
        f"slices show as much by chance (fails at {LEVEL * 100:.0f} %).{others}"
    )
    return GateResult(name, passed, value, gate.limit, sentence, gate.blocks)


def _p_worse(estimate: Estimate, limit: float, lower: bool) -> float:
    return estimate.p_above(limit) if lower else estimate.p_below(limit)


def _chance(p: float) -> str:
    return "less than 0.1 %" if p < 0.001 else f"{p:.1%}".replace("%", " %")


def _better_than_champion(gate: BetterThanChampion, measured: Measured) -> GateResult:
    name = f"{gate.metric} against the champion"
    if measured.comparisons is None:
        return GateResult(name, True, None, gate.margin, "There is no champion to compare with.", gate.blocks)
    found = measured.comparisons.get(gate.metric)
    if found is None:
        return GateResult(name, False, None, gate.margin, measured.uncompared, gate.blocks)
    if math.isnan(found.champion):
        sentence = f"The champion gives nothing that {gate.metric} is measured of. Compare by a metric that both have."
        return GateResult(name, False, None, gate.margin, sentence, gate.blocks)
    difference = found.difference
    values = (
        f"{gate.metric} is {found.challenger:.4f}, the champion's {found.champion:.4f} on the same {found.rows:,} rows "
        f"of {found.days} days: "
    )
    if difference.low is None:
        sentence = (
            f"{values}not measured, since so few days, or so unequal ones, do not tell chance from difference "
            f"({FEWEST_BLOCKS} of equal size are the fewest)."
        )
        return GateResult(name, False, difference.value, gate.margin, sentence, gate.blocks)
    passed = difference.low > gate.margin
    meaning = {
        "better": "better",
        "not worse": "not worse, but no gain is shown" if passed else "better, but by less than that",
        "worse": "worse",
        "undecided": "neither a gain nor a loss is shown",
    }
    sentence = (
        f"{values}the difference is {difference.low:+.4f} to {difference.high:+.4f} with 95 % certainty (above "
        f"{gate.margin:+g} is asked for): {meaning[verdict(difference, gate.margin)]}."
    )
    return GateResult(name, passed, difference.low, gate.margin, sentence, gate.blocks)


def baseline_name(gate: BetterThanBaseline) -> str:
    return f"{gate.metric} by {', '.join(gate.by) or 'nothing'}"


def _better_than_baseline(gate: BetterThanBaseline, measured: Measured) -> GateResult:
    name = f"{gate.metric} against a baseline"
    found = measured.baselines.get(baseline_name(gate))
    if found is None:
        sentence = "Not measured: the baseline is not on record. Train and register the version again."
        return GateResult(name, False, None, gate.margin, sentence, gate.blocks)
    values = (
        f"{gate.metric} is {found.challenger:.4f}, and {found.champion:.4f} without a model, by "
        f"{', '.join(gate.by) or 'nothing but the labels before'}: "
    )
    difference = found.difference
    if difference.low is None:
        sentence = f"{values}not measured, since so few days do not tell chance from difference."
        return GateResult(name, False, difference.value, gate.margin, sentence, gate.blocks)
    sentence = (
        f"{values}better by {difference.low:+.4f} to {difference.high:+.4f} with 95 % certainty (above "
        f"{gate.margin:+g} is asked for)."
    )
    return GateResult(name, difference.low > gate.margin, difference.low, gate.margin, sentence, gate.blocks)


def _at_most(
    name: str, gate: OnnxParity | Latency, value: float | None, limit: float, what: str, unit: str
) -> GateResult:
    if value is None:
        return GateResult(name, False, None, limit, f"{what} was not measured.", gate.blocks)
    sentence = f"{what} is {value:.3g}{unit} (at most {limit:g}{unit} is asked for)."
    return GateResult(name, value <= limit, value, limit, sentence, gate.blocks)


def _fairness(gate: Fairness, measured: Measured) -> GateResult:
    name = f"{gate.measure} between values of {gate.column}"
    counts = next((one for one in measured.counts if one.column == gate.column), None)
    found = widest_spread(counts, gate.measure, gate.limit) if counts else f"no value of {gate.column} has enough rows."
    if isinstance(found, str):
        return GateResult(name, False, None, gate.limit, f"Not measured: {found}", gate.blocks)
    difference = found.difference
    others = f" {len(found.left_out)} other values have too few." if found.left_out else ""
    sentence = (
        f"{gate.measure} is {found.low_rate:.3f} for {gate.column}={found.low} and {found.high_rate:.3f} for "
        f"{found.high}: a difference of {difference.value:.3f} (by itself {difference.low:.3f} to "
        f"{difference.high:.3f}; at most {gate.limit:g} is asked for), and {_chance(found.p)} of sets of "
        f"{found.groups} values show as much by chance (fails at {LEVEL * 100:.0f} %).{others}"
    )
    return GateResult(name, found.p > LEVEL, difference.value, gate.limit, sentence, gate.blocks)


def _plausible(gate: Plausible, measured: Measured) -> GateResult:
    name = f"{gate.metric} plausible"
    value = measured.evaluation[gate.metric].value
    if measured.alone is None:
        sentence = "Not measured: what each feature says alone is not on record. Train and register the version again."
        return GateResult(name, False, None, gate.limit, sentence, gate.blocks)
    if measured.comparisons is not None and gate.metric not in measured.comparisons:
        return GateResult(name, False, None, gate.limit, measured.uncompared, gate.blocks)
    said = [f"{gate.metric} is {value:.4f} (at most {gate.limit:g} is plausible)"] if value > gate.limit else []
    said += [
        f"{feature} alone ranks the rows with a ROC AUC of {auc:.4f} (at most {gate.alone:g} is plausible)"
        for feature, auc in sorted(measured.alone.items(), key=lambda one: -one[1])
        if auc > gate.alone
    ]
    found = (measured.comparisons or {}).get(gate.metric)
    if found is not None and found.difference.value > gate.jump:
        said.append(
            f"{gate.metric} is {found.challenger:.4f} where the champion's is {found.champion:.4f} (at most "
            f"{gate.jump:g} more is plausible)"
        )
    if not said:
        sentence = f"{gate.metric} is {value:.4f}, and nothing about it is too good to be true."
        return GateResult(name, True, value, gate.limit, sentence, gate.blocks)
    first = sorted((measured.importance or measured.alone).items(), key=lambda one: -one[1])[:3]
    sentence = (
        f"Too good to be true: {'; '.join(said)}. Look for a feature that is known only after the fact; most comes "
        f"from {', '.join(feature for feature, _ in first)}. If they are right, raise the gate's limit."
    )
    return GateResult(name, False, value, gate.limit, sentence, gate.blocks)


def _no_vulnerability(gate: NoVulnerability, measured: Measured, now: datetime) -> GateResult:
    name = "vulnerabilities"
    if measured.findings is None:
        return GateResult(name, False, None, 0, "No scan for vulnerabilities was made.", gate.blocks)
    waived = {waiver.advisory for waiver in gate.waivers if now < waiver.until}
    counting = [f for f in measured.findings if f.advisory not in waived and _counts(f, gate)]
    others = len(measured.findings) - len(counting)
    if not counting:
        return GateResult(name, True, 0, 0, f"No vulnerability that counts ({others} others or waived).", gate.blocks)
    shown = ", ".join(f"{f.advisory} ({f.severity}) in {f.subject}" for f in counting[:5])
    more = f" and {len(counting) - 5} more" if len(counting) > 5 else ""
    return GateResult(name, False, len(counting), 0, f"Vulnerable: {shown}{more}.", gate.blocks)


def _counts(finding: Finding, gate: NoVulnerability) -> bool:
    if finding.where == "artifact":
        return True
    if gate.environment_from is None:
        return False
    if finding.severity == "unknown":
        return True
    return _SEVERITIES.index(finding.severity) >= _SEVERITIES.index(gate.environment_from)
