"""The columns that a training set has beside entities and features."""

PREDICTION_TIME = "event_timestamp"
LABEL = "label"
LABEL_KNOWN_AT = "label_known_at"
RESERVED = (PREDICTION_TIME, LABEL, LABEL_KNOWN_AT)
