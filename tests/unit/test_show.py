"""Charts: what they draw is inside of them."""

import re

from mlops_ray.show.charts import bars


def test_the_text_behind_the_longest_bar_is_not_cut_off() -> None:
    for text in ("1", "0.03779 CPU h", "1,234,567.89 EUR of 2 months"):
        drawn = bars([("evaluate", 1.0, text), ("register", 0.1, "1")], 1.0)
        width = int(re.findall(r'viewBox="0 0 (\d+) ', drawn)[0])
        begins = max(float(x) for x in re.findall(r'<text x="([\d.]+)" y="13">', drawn))
        assert begins + 7 * len(text) <= width
