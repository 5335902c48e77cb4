"""The error that is an answer."""

from collections.abc import Mapping


class HttpError(Exception):
    """An answer other than 200: `error` is a sentence for the caller, `field` says where in the request."""

    def __init__(self, status: int, error: str, field: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(status, error, field, headers)
        self.status, self.error, self.field, self.headers = status, error, field, headers or {}
