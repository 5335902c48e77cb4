"""The encoder gives every value its place in the matrix, and its ONNX gives the same."""

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mlops_ray.errors import DataError
from mlops_ray.features.blocks import Held, Rows
from mlops_ray.training.encoding import Encoder, fit_encoder, fit_encoder_to
from mlops_ray.use_case import Feature

FEATURES = (Feature("carrier", "category"), Feature("wind", "number"), Feature("origin", "category"))
TRAIN = pl.DataFrame({"wind": [1.5, None], "carrier": ["UA", "AA"], "origin": ["JFK", None], "other": [1, 2]})


def first_column_as_probability(width: int) -> bytes:
    """A classifier that shows what it was given: row * width + sum would hide the order, so it returns one column."""
    nodes = [
        helper.make_node("Constant", [], ["numbers"], value_ints=list(range(width))),
        helper.make_node("Gather", ["matrix", "numbers"], ["probability"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "echo",
        [helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["rows", width])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def onnx_matrix(encoder: Encoder, frame: pl.DataFrame) -> np.ndarray:
    complete = encoder.wrap_onnx(first_column_as_probability(len(encoder.features)))
    session = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
    return session.run(None, encoder.inputs(frame))[0]


def test_categories_get_codes_in_sorted_order_after_unknown_and_missing() -> None:
    encoder = fit_encoder(TRAIN, FEATURES)
    frame = pl.DataFrame(
        {"carrier": ["AA", "UA", "ZZ", None, ""], "wind": [0.0] * 5, "origin": ["JFK", "LGA", None, "", "JFK"]}
    )
    assert encoder.encode(frame)[:, 0].tolist() == [2, 3, 0, 1, 1]
    assert encoder.encode(frame)[:, 2].tolist() == [2, 0, 1, 1, 2]


def test_codes_do_not_depend_on_the_order_of_rows() -> None:
    assert fit_encoder(TRAIN, FEATURES) == fit_encoder(TRAIN.reverse(), FEATURES)


def test_columns_follow_the_features_and_missing_numbers_are_nan() -> None:
    matrix = fit_encoder(TRAIN, FEATURES).encode(TRAIN)
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix, np.array([[3, 1.5, 2], [2, np.nan, 1]], dtype=np.float32))


OFTEN = ((2_000, 2), (2_000, 1_000), (400_000, 399), (50, 1))


@pytest.mark.parametrize(("rows", "lacking"), [(2_000, 0), (2_000, 1), (400_000, 30), *OFTEN])
def test_a_number_that_training_hardly_ever_lacked_is_then_its_median(rows: int, lacking: int) -> None:
    """In polars and in ONNX, for all that is no number. Of many rows a few can be enough to learn from."""
    is_learned = (rows, lacking) in OFTEN
    values = np.random.default_rng(1).permutation(np.arange(float(rows)))
    wind = np.where(values < lacking, np.nan, values)
    train = pl.DataFrame({"wind": wind, "carrier": "AA", "origin": "JFK"})
    encoder = fit_encoder(train, FEATURES)
    asked = [None, float("nan"), float("inf"), -float("inf"), 1e300, 7.0]
    frame = pl.DataFrame({"wind": asked, "carrier": "AA", "origin": "JFK"})
    *missing, given = encoder.encode(frame)[:, 1]
    assert missing == pytest.approx([np.nan if is_learned else np.nanmedian(wind)] * 5, rel=0.01, nan_ok=True)
    assert given == 7
    np.testing.assert_array_equal(onnx_matrix(encoder, frame), encoder.encode(frame))


def test_what_is_usual_is_the_same_of_rows_in_blocks_and_at_once() -> None:
    random = np.random.default_rng(1)
    wind = np.where(random.random(150_000) < 0.0009, np.nan, random.normal(size=150_000))
    train = pl.DataFrame({"wind": wind, "carrier": "AA", "origin": "JFK"})
    blocks = Rows(tuple(Held(train[at : at + 40_000]) for at in range(0, train.height, 40_000)))
    assert fit_encoder_to(blocks, FEATURES) == fit_encoder(train, FEATURES)
    assert fit_encoder(train, FEATURES).usual["wind"] == pytest.approx(np.nanmedian(wind), abs=0.01)


def test_numbers_of_no_rows_have_no_usual_one() -> None:
    assert fit_encoder(TRAIN[:0], FEATURES).usual == {}


def test_integers_and_booleans_are_numbers() -> None:
    frame = pl.DataFrame({"count": [1, None], "flag": [True, None]})
    encoder = fit_encoder(frame, [Feature("count", "number"), Feature("flag", "number")])
    np.testing.assert_array_equal(encoder.encode(frame), [[1, 1], [np.nan, np.nan]])


@pytest.mark.parametrize(
    "features",
    [FEATURES, FEATURES[1:2], FEATURES[:1], (*FEATURES, Feature("hour", "number"))],
    ids=["mixed", "numbers only", "categories only", "number last"],
)
def test_onnx_encodes_like_polars(features: tuple[Feature, ...]) -> None:
    encoder = fit_encoder(TRAIN.with_columns(hour=pl.lit(3.0)), features)
    frame = pl.DataFrame(
        {
            "wind": [1.5, None, float("nan"), float("inf"), -1e300, 1e-300],
            "carrier": ["AA", "", None, "never seen", "UA", "aa"],
            "origin": ["JFK", "jfk", None, "", "ü", " JFK"],
            "hour": [1, 2, 3, 4, 5, 6],
        }
    )
    np.testing.assert_array_equal(onnx_matrix(encoder, frame), encoder.encode(frame))


@settings(max_examples=25, deadline=None)
@given(
    train=st.lists(st.text(max_size=5), min_size=1, max_size=8),
    asked=st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=8),
)
def test_any_text_gets_the_same_code_in_polars_and_onnx(train: list[str], asked: list[str | None]) -> None:
    # ONNX strings end at a NUL character in some bindings, and no use case has them.
    train = [text.replace("\0", "") for text in train]
    asked = [text if text is None else text.replace("\0", "") for text in asked]
    encoder = fit_encoder(pl.DataFrame({"text": train}), [Feature("text", "category")])
    frame = pl.DataFrame({"text": asked}, schema={"text": pl.String})
    codes = encoder.encode(frame)
    np.testing.assert_array_equal(onnx_matrix(encoder, frame), codes)
    for text, code in zip(asked, codes[:, 0], strict=True):
        assert code == (1 if not text else 0 if text not in train else 2 + encoder.features[0].categories.index(text))


def test_onnx_has_only_the_inputs_that_there_are_features_for() -> None:
    encoder = fit_encoder(TRAIN, FEATURES[1:2])
    model = onnx.load_model_from_string(encoder.wrap_onnx(first_column_as_probability(1)))
    assert [value.name for value in model.graph.input] == ["numbers"]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="wind"):
        fit_encoder(TRAIN, FEATURES).encode(TRAIN.drop("wind"))


def test_no_rows_give_an_empty_matrix() -> None:
    encoder = fit_encoder(TRAIN, FEATURES)
    assert encoder.encode(TRAIN[:0]).shape == (0, 3)
    assert encoder.inputs(TRAIN[:0])["categories"].shape == (0, 2)
