"""Which extra of this package brings a library that is not installed here."""

from mlops_ray.errors import ConfigurationError

# By the name that is imported. `pyproject.toml` says what each extra installs, and a test holds the two together.
EXTRAS = {
    **dict.fromkeys(
        ("deltalake", "feast", "google", "mlflow", "oauthlib", "onnx", "onnxruntime", "pandas", "uvicorn"), "serve"
    ),
    **dict.fromkeys(("duckdb", "optuna", "skl2onnx", "sklearn"), "train"),
    **dict.fromkeys(("torch", "onnxscript"), "torch"),
    **dict.fromkeys(("boto3", "botocore"), "s3"),
    **dict.fromkeys(("mcp", "mcp_types"), "mcp"),
    "lightgbm": "lightgbm",
    "psycopg": "sql",
    "pyiceberg": "iceberg",
    "redis": "redis",
    "river": "watch",
}

_MOST_NAMED = 3


def is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def expect_extra(extra: str, whose: str) -> None:
    """Raise ConfigurationError if packages that an extra brings are not installed here. whose: needs it, as a subject.

    Nothing is known, and nothing raised, where this package itself is not installed but lies on Python's path.
    """
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    try:
        every = [Requirement(one) for one in requires("mlops_ray") or ()]
    except PackageNotFoundError:
        return
    its_own = [one for one in every if one.marker and one.marker.evaluate({"extra": extra})]
    if missing := sorted({one.name for one in its_own if not is_installed(one.name)}):
        raise ConfigurationError(
            f"{whose} needs the extra {extra}, and of it {', '.join(missing[:_MOST_NAMED])}"
            f"{f' and {len(missing) - _MOST_NAMED} more' if len(missing) > _MOST_NAMED else ''} "
            f"{'is' if len(missing) == 1 else 'are'} not installed here: pip install 'mlops_ray[{extra}]', or "
            f"'mlops_ray[all]' for all."
        )


def missing_extra(error: BaseException) -> ConfigurationError | None:
    """The error that says what to install, if `error` or what caused it is a library of an extra that is not there."""
    seen: list[BaseException] = []
    while isinstance(error, BaseException) and error not in seen:
        name = ((error.name if isinstance(error, ModuleNotFoundError) else None) or "").partition(".")[0]
        if extra := EXTRAS.get(name):
            return ConfigurationError(
                f"{name} is not installed here. It comes with the extra {extra}: pip install 'mlops_ray[{extra}]' on "
                f"every node that needs it, or 'mlops_ray[all]' for all."
            )
        seen.append(error)
        error = getattr(error, "cause", None) or error.__cause__  # type: ignore[assignment]  # Ray's has its task's
    return None
