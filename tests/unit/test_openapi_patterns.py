"""Patterns in the OpenAPI document mean to its readers what they mean to the endpoint."""

import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_ray import Column
from mlops_ray.errors import UseCaseError
from mlops_ray.serving.openapi.columns import _SAME_EVERYWHERE, _pattern


def is_quick(pattern: str) -> bool:
    """Python tries all ways to repeat what is repeated within a repetition: many of those never end."""
    return len(pattern) < 30 and sum(pattern.count(sign) for sign in "*+{") <= 2 and not re.search("[0-9]{3}", pattern)


@settings(max_examples=300, deadline=None)
@given(st.from_regex(_SAME_EVERYWHERE, fullmatch=True).filter(is_quick), st.data())
def test_a_pattern_that_is_documented_means_the_same_to_another_engine(pattern: str, data: st.DataObject) -> None:
    try:
        column = Column("code", "text", pattern=pattern)
        documented = re.compile(_pattern(column)["pattern"])
    except (UseCaseError, re.error):
        return
    text = data.draw(st.text(st.sampled_from([*"abzAZ019 _-./\u00fc\u0663\u017f\n", *pattern]), max_size=6))
    if len(text) < 20:
        assert bool(documented.search(text)) == pl.Series([text]).str.contains(str(column.whole_pattern)).item()


@pytest.mark.parametrize("pattern", [r"[A-Z0-9]{2,8}", "N(?:1|2)*", r"\d+\.5".replace(r"\d", "[0-9]"), "a-b_c"])
def test_plain_patterns_are_documented(pattern: str) -> None:
    assert _pattern(Column("code", "text", pattern=pattern))


@pytest.mark.parametrize(
    "pattern", ["(?i)ab", r"\p{L}+", "[[:alpha:]]+", r"\d", r"\w", ".", "[^a]", "[a&&b]", "^a$", "a*+"]
)
def test_patterns_that_mean_something_else_elsewhere_are_not(pattern: str) -> None:
    assert _pattern(Column("code", "text", pattern=pattern)) == {}
