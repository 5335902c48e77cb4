"""The contract of a candidate, as checks that a user's own candidate is run against.

    @pytest.mark.parametrize("check", CHECKS)
    @pytest.mark.parametrize("task", TASKS)
    def test_my_candidate(check, task):
        check(MyCandidate(), {"depth": 3}, task)

Leave out of TASKS what the candidate has no models for. A candidate with `deterministic = False` may answer otherwise
each time that it is fitted. Each check raises AssertionError saying which promise of
use_case.Candidate was broken.
"""

import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import polars as pl
from numpy.typing import NDArray

from mlops_ray.features.blocks import Held, Rows
from mlops_ray.pipeline.fingerprint import fingerprint
from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.scaling import Scaling
from mlops_ray.tasks.task import Task
from mlops_ray.training.averaged import AveragedModel
from mlops_ray.training.encoded_rows import EncodedRows
from mlops_ray.training.encoding import Encoder, fit_encoder
from mlops_ray.training.exported import exported
from mlops_ray.training.scaled import scaled
from mlops_ray.use_case import Candidate, Feature, FitBlocks, FitData, FittedModel, LargeCandidate, Parameters

TOLERANCE = 1e-5
_FEATURES = (Feature("hour", "number"), Feature("carrier", "category"), Feature("wind", "number"))


@dataclass(frozen=True)
class Sample:
    """A learnable problem: numbers with gaps, a category without unknown or missing values in training."""

    encoder: Encoder
    frame: pl.DataFrame
    matrix: NDArray[np.float32]
    task: Task
    label: NDArray[Any]


TASKS: tuple[Task, ...] = (
    Binary(),
    MultiClass(("early", "on time", "late")),
    Regression("minutes"),
    Regression("minutes", "median"),
)
QUANTILE: Task = Regression("minutes", quantiles=(0.8,)).fitted_as[1]
"""One more of TASKS for a candidate that `Regression(quantiles=...)` is declared with."""


def make_sample(task: Task = TASKS[0], rows: int = 2000, seed: int = 7) -> Sample:
    random = np.random.default_rng(seed)
    hour = random.uniform(0, 24, rows)
    wind = np.where(random.random(rows) < 0.2, np.nan, random.lognormal(2, 0.5, rows))
    carrier = random.choice(["AA", "B6", "UA"], rows)
    score = 0.2 * (hour - 12) + 0.1 * np.nan_to_num(wind) + (carrier == "B6") - 1
    noisy = 30 * (score + random.logistic(size=rows))
    classes = np.where(noisy < -20, "early", np.where(noisy < 20, "on time", "late"))
    raw = {"binary": pl.Series(noisy > 0), "multiclass": pl.Series(classes), "regression": pl.Series(noisy)}
    frame = pl.DataFrame({"hour": hour, "carrier": carrier, "wind": wind}).with_columns(pl.col("wind").fill_nan(None))
    encoder = fit_encoder(frame, _FEATURES)
    return Sample(encoder, frame, encoder.encode(frame), task, task.encoded(raw[task.kind]))


def fit_data(sample: Sample, **said: Any) -> FitData:
    """What a candidate is given of the sample; said: other fields of FitData."""
    known = {"seed": 3, "threads": 1} | said
    return FitData(sample.matrix, sample.label, sample.encoder.features, sample.task, **known)


def check_fractions_rise_to_one(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    sample = make_sample(task)
    fractions = [fraction for fraction, _ in _fit(candidate, parameters, sample)]
    assert len(fractions) >= 2, f"{candidate.name} yields {len(fractions)} step: nothing can be stopped early."
    assert fractions == sorted(set(fractions)), f"{candidate.name}: the fractions {fractions} do not rise."
    assert fractions[0] > 0, f"{candidate.name}: the first fraction is {fractions[0]}."
    assert fractions[-1] == 1.0, f"{candidate.name}: the last fraction is {fractions[-1]}, not 1."


def check_answers(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """Every step answers every row, odd ones too, as the task asks for, and the last one has learned something."""
    sample = make_sample(task)
    odd = sample.encoder.encode(odd_rows(sample))
    for fraction, model in _fit(candidate, parameters, sample):
        for matrix in (sample.matrix, odd, sample.matrix[:1], sample.matrix[:0]):
            answer, wanted = model.predict(matrix), (len(matrix), task.width)[: 1 if task.width == 1 else 2]
            assert answer.shape == wanted, f"{candidate.name} at {fraction}: shape {answer.shape}, not {wanted}."
            assert answer.dtype == np.float64, f"{candidate.name} at {fraction}: {answer.dtype}."
            assert not (wrong := task.wrong(answer)), f"{candidate.name} at {fraction}: {wrong}"
    learned = task.losses(sample.label, model.predict(sample.matrix)).mean()
    guessed = task.losses(sample.label, _same_for_all(task, sample.label)).mean()
    assert learned < 0.95 * guessed, (
        f"{candidate.name} learned nothing: its loss is {learned}, that of a guess {guessed}."
    )


def _same_for_all(task: Task, label: NDArray[Any]) -> NDArray[np.float64]:
    """The best answer without looking at any feature: that of a link whose scores are fitted to nothing else."""
    link = task.link(label)
    scores = np.zeros(link.width)
    for _ in range(200):
        scores -= link.loss(np.tile(scores, (len(label), 1)), label)[1].sum(axis=0)
    return link.answer(np.tile(scores, (len(label), 1)))


def check_determinism(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    if not getattr(candidate, "deterministic", True):
        return
    sample = make_sample(task)
    first, second = (_last(candidate, parameters, sample).predict(sample.matrix) for _ in range(2))
    assert np.array_equal(first, second), f"{candidate.name}: the same seed gave different answers."


def check_input_is_left_alone(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """The matrix comes from shared memory, read-only; fitting neither needs to write it nor changes it."""
    sample = make_sample(task)
    before = sample.matrix.copy()
    sample.matrix.flags.writeable = False
    sample.label.flags.writeable = False
    _last(candidate, parameters, sample).predict(sample.matrix)
    assert np.array_equal(sample.matrix, before, equal_nan=True), f"{candidate.name} changed the matrix."


def check_onnx_parity(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """The complete ONNX answers like the trained model: known, unknown, missing, empty, NaN, adjacent floats."""
    sample = make_sample(task)
    model = _last(candidate, parameters, sample)
    _expect_parity(
        candidate, model, sample, {"training": sample.frame, "odd": odd_rows(sample), "one": sample.frame[:1]}
    )


def _expect_parity(
    candidate: Candidate, model: FittedModel, sample: Sample, frames: Mapping[str, pl.DataFrame]
) -> None:
    task = sample.task
    complete = sample.encoder.wrap_onnx(exported(model, task.output).SerializeToString())
    domains = {opset.domain for opset in onnx.load_model_from_string(complete).opset_import}
    assert domains == {"", "ai.onnx.ml"}, f"{candidate.name}: servers know no operators of {sorted(domains)}."
    session = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    for name, frame in frames.items():
        answered = session.run([task.output], sample.encoder.inputs(frame))[0]
        expected = model.predict(sample.encoder.encode(frame))
        assert answered.dtype == np.float32, f"{candidate.name}: ONNX answers {answered.dtype}."
        assert answered.shape == expected.shape, f"{candidate.name}: ONNX answers with shape {answered.shape}."
        worst = task.apart(answered, expected).max()
        assert worst <= TOLERANCE, f"{candidate.name}: ONNX differs by {worst:.1e} on {name} rows ({TOLERANCE:.0e})."


def check_onnx_in_company(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """Its ONNX goes on to a calibration, and into an average with others."""
    sample = make_sample(task)
    model = _last(candidate, parameters, sample)
    if task.class_names:
        model = scaled(model, Scaling(0.9, (0.1,) * task.width), task)
    averaged = AveragedModel((model, model), (0.25, 0.75), task.output)
    _expect_parity(candidate, averaged, sample, {"training": sample.frame, "odd": odd_rows(sample)})


def check_numbers_alone(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """There may be no category among the features."""
    _check_only("number", candidate, parameters, task)


def check_categories_alone(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """There may be no number among the features."""
    _check_only("category", candidate, parameters, task)


def _check_only(kind: str, candidate: Candidate, parameters: Parameters, task: Task) -> None:
    sample = make_sample(task)
    encoder = fit_encoder(sample.frame, [feature for feature in _FEATURES if feature.kind == kind])
    sample = replace(sample, encoder=encoder, matrix=encoder.encode(sample.frame))
    model = _last(candidate, parameters, sample)
    _expect_parity(candidate, model, sample, {"training": sample.frame, "odd": odd_rows(sample)})


def check_nothing_known(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """A number may have no value in any row: a source that has not come yet, or a sensor of another place."""
    sample = make_sample(task)
    frame, odd = (one.with_columns(wind=pl.lit(None, pl.Float64)) for one in (sample.frame, odd_rows(sample)))
    encoder = fit_encoder(frame, _FEATURES)
    bare = replace(sample, encoder=encoder, frame=frame, matrix=encoder.encode(frame))
    model = _last(candidate, parameters, bare)
    _expect_parity(candidate, model, bare, {"training": frame, "odd": odd})


def check_nothing_to_learn(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """All rows may be alike, and few: it answers all of them the same, also as ONNX."""
    sample = make_sample(task, rows=60)
    frame = pl.concat([sample.frame[:1]] * sample.frame.height)
    alike = replace(sample, frame=frame, matrix=sample.encoder.encode(frame))
    model = _last(candidate, parameters, alike)
    _expect_parity(candidate, model, alike, {"training": frame, "odd": odd_rows(sample)})


def check_weights_count(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """Rows that weigh next to nothing teach next to nothing. Who passed weights over would have its probabilities led
    back from weights of classes that they never had."""
    sample = make_sample(task)
    others = sample.label[np.random.default_rng(11).permutation(len(sample.label))]
    mixed = replace(sample, matrix=np.vstack([sample.matrix] * 3), label=np.concatenate([sample.label, others, others]))
    weights = np.repeat([1.0, 1e-6, 1e-6], len(sample.label))
    data = fit_data(mixed, weights=weights / weights.mean())
    *_, (_, model) = candidate.fit(data, parameters)
    weighted = task.losses(sample.label, model.predict(sample.matrix)).mean()
    guessed = task.losses(sample.label, _same_for_all(task, sample.label)).mean()
    clean = task.losses(sample.label, _last(candidate, parameters, sample).predict(sample.matrix)).mean()
    assert weighted < (clean + guessed) / 2, (
        f"{candidate.name} does not heed FitData.weights: its loss is {weighted}; without the rows that should not "
        f"count it is {clean}, and that of a guess {guessed}."
    )


def check_limits(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """With rows held out, and when the time is up before it began, it ends as always: with a model that answers."""
    sample = make_sample(task)
    for said in ({"held_out": 0.2}, {"ends_at": time.monotonic()}, {"held_out": 0.2, "ends_at": time.monotonic()}):
        steps = list(candidate.fit(fit_data(sample, **said), parameters))
        assert steps, f"{candidate.name} yields nothing with {said}."
        fractions = [fraction for fraction, _ in steps]
        assert fractions == sorted(set(fractions)), f"{candidate.name}: the fractions {fractions} do not rise."
        assert fractions[-1] == 1.0, f"{candidate.name} with {said}: the last fraction is {fractions[-1]}, not 1."
        wrong = task.wrong(steps[-1][1].predict(sample.matrix))
        assert not wrong, f"{candidate.name} with {said}: {wrong}"


def check_blocks(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """One that can be fitted to blocks of rows learns from them as it does from the matrix."""
    if not isinstance(candidate, LargeCandidate):
        return
    sample = make_sample(task)
    rows = Rows(tuple(Held(sample.frame[at : at + 300]) for at in range(0, sample.frame.height, 300)))
    blocks = EncodedRows(sample.encoder, rows)
    data = FitBlocks(blocks, sample.label, sample.encoder.features, task, seed=3, threads=1)
    *_, (fraction, model) = candidate.fit_blocks(data, parameters)
    assert fraction == 1.0, f"{candidate.name}: the last fraction is {fraction}, not 1."
    found, whole = (
        task.losses(sample.label, one.predict(sample.matrix)).mean()
        for one in (model, _last(candidate, parameters, sample))
    )
    assert found < 1.1 * whole, f"{candidate.name}: from blocks the loss is {found}, from the matrix {whole}."
    few, many = (candidate.bytes_for(count, len(sample.encoder.features)) for count in (10**6, 10**9))
    assert 0 <= few < many, (
        f"{candidate.name}: it holds {few} bytes of a million rows and {many} of a thousand million."
    )


def check_identity(candidate: Candidate, parameters: Parameters, task: Task = TASKS[0]) -> None:
    """It goes to workers as a pickle, is the same there, and stays what it was when it has been fitted: what has been
    trained is found again by what the candidate is."""
    copy = pickle.loads(pickle.dumps(candidate))
    before = fingerprint(candidate)
    assert fingerprint(copy) == before, f"{candidate.name}: a pickled copy is not the same candidate."
    _last(candidate, parameters, make_sample(task))
    assert fingerprint(candidate) == before, f"{candidate.name} is another candidate after a fit: keep no state in it."


CHECKS: tuple[Callable[[Candidate, Parameters, Task], None], ...] = (
    check_fractions_rise_to_one,
    check_answers,
    check_determinism,
    check_input_is_left_alone,
    check_onnx_parity,
    check_onnx_in_company,
    check_numbers_alone,
    check_categories_alone,
    check_nothing_known,
    check_nothing_to_learn,
    check_weights_count,
    check_limits,
    check_blocks,
    check_identity,
)


def odd_rows(sample: Sample) -> pl.DataFrame:
    """Rows that training has none of, and for each number the float32 neighbours of values between training rows."""
    rows: list[tuple[float | None, str | None, float | None]] = [
        (8.0, "never seen", 10.0),
        (8.0, None, 10.0),
        (8.0, "", 10.0),
        (None, "AA", 10.0),
        (None, None, None),
        (float("nan"), "AA", float("inf")),
        (-1e30, "B6", 1e30),
        (0.0, "UA", -0.0),
    ]
    rows += [(value, "AA", 10.0) for value in _neighbours(sample.frame["hour"])]
    rows += [(8.0, "AA", value) for value in _neighbours(sample.frame["wind"])]
    return pl.DataFrame(rows, schema={"hour": pl.Float64, "carrier": pl.String, "wind": pl.Float64}, orient="row")


def _neighbours(column: pl.Series) -> list[float]:
    """Where trees put their thresholds, and the float32 just below and above."""
    values = np.unique(column.drop_nulls().to_numpy())
    middles = ((values[:-1] + values[1:]) / 2).astype(np.float32)
    below, above = np.nextafter(middles, np.float32(-np.inf)), np.nextafter(middles, np.float32(np.inf))
    return [float(value) for value in (*below, *middles, *above)]


def _fit(candidate: Candidate, parameters: Parameters, sample: Sample) -> list[tuple[float, FittedModel]]:
    return list(candidate.fit(fit_data(sample), parameters))


def _last(candidate: Candidate, parameters: Parameters, sample: Sample) -> FittedModel:
    return _fit(candidate, parameters, sample)[-1][1]
