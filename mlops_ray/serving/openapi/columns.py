"""Columns: what may be sent for one, as a schema.

What callers send is described as this system writes it; other writings that the contract reads are accepted, too.
"""

import re
from typing import Any

from mlops_ray.ingestion.reading import limits
from mlops_ray.serving.json_body import MAX_TEXT
from mlops_ray.serving.rows import integer_limits
from mlops_ray.use_case import Column

MOMENT = {"type": "string", "format": "date-time", "pattern": r"^(19|20|21)\d\d-"}
# In the first and the last year it depends on the offset whether a moment lies within 1900 to 2199.
ASKED_MOMENT = {**MOMENT, "pattern": r"^(19(0[1-9]|[1-9]\d)|20\d\d|21([0-8]\d|9[0-8]))-"}
# Patterns that mean the same to Rust, ECMAScript and Python: plain characters, groups, sets of plain characters.
_PLAIN = r"[A-Za-z0-9 _,:;@#%=~/!-]|\\[.()\[\]{}+*?^$|/]"
_SET = r"\[(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_ .,:;@/])+-?\]"
_TIMES = r"(?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??"
_SAME_EVERYWHERE = re.compile(rf"(?:\((?:\?:)?|\||(?:{_PLAIN}|{_SET}|\))(?:{_TIMES})?)*")


def schema_of_column(column: Column) -> dict[str, Any]:
    described = _present(column)
    if column.default is not None:
        return {"anyOf": [described, {"type": "null"}], "default": column.default}
    return {"anyOf": [described, {"type": "null"}]} if column.nullable else described


def _present(column: Column) -> dict[str, Any]:
    match column.type:
        case "text" if column.choices:
            return {"enum": list(column.choices)}
        case "text":
            return {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, **_pattern(column)}
        case "integer":
            low, high = integer_limits(column)
            return {"type": "integer", "minimum": low, "maximum": high}
        case "number":
            least, greatest = limits(column)
            return {"type": "number", "minimum": least, "maximum": greatest}
        case "boolean":
            return {"type": "boolean"}
        case "timestamp":
            return ASKED_MOMENT


def _pattern(column: Column) -> dict[str, str]:
    """The pattern, if it means the same to who reads the document; `(?!\\n)`, as Python's `$` lets a line feed pass."""
    if column.pattern is None or not _SAME_EVERYWHERE.fullmatch(column.pattern):
        return {}
    return {"pattern": f"^(?:{column.pattern})$(?!\\n)"}
