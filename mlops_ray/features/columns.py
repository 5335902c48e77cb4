"""The columns that a training set has beside entities and features, and the types that columns of views may have."""

import polars as pl

PREDICTION_TIME = "event_timestamp"
LABEL = "label"
LABEL_KNOWN_AT = "label_known_at"
RESERVED = (PREDICTION_TIME, LABEL, LABEL_KNOWN_AT)

# By Feast's names.
DTYPES: dict[str, pl.DataType] = {
    "Float64": pl.Float64(),
    "Float32": pl.Float32(),
    "Int64": pl.Int64(),
    "Int32": pl.Int32(),
    "Bool": pl.Boolean(),
    "String": pl.String(),
}
