"""An endpoint with its governor, for Serve's own files: `serve deploy` starts both, as `mlops-ray serve` does."""

import logging
from pathlib import Path
from typing import Any

from mlops_ray.config import load_settings, settings_from_environment
from mlops_ray.errors import ConfigurationError
from mlops_ray.retraining.governor_actor import start_governor
from mlops_ray.serving.app import EndpointArgs, build_endpoint
from mlops_ray.use_case import load_use_case

_logger = logging.getLogger(__name__)


class GovernedArgs(EndpointArgs):
    """`args` in a Serve file: those of an endpoint, and use_case: the absolute path of the file that declares it, which
    has to exist on every node, as its folder `feature_repo` beside `use_cases` has to."""

    use_case: str


def build_governed_endpoint(args: GovernedArgs) -> Any:
    """For `import_path` in a Serve file: the endpoint of one model, and its governor where the use case wants one.

    Deployed again, it replaces a governor whose code, declaration or settings have changed. Raises ConfigurationError
    if the file declares another use case than `model`.
    """
    case = load_use_case(args.use_case)
    if case.name != args.model:
        raise ConfigurationError(
            f"{args.use_case} declares the use case {case.name!r}, and the model here is {args.model!r}. Give the "
            f"file of {args.model!r}."
        )
    if case.retraining is not None:
        settings = load_settings(args.settings) if args.settings else settings_from_environment()
        definitions = Path(args.use_case).parent.parent / "feature_repo"
        start_governor(case, settings, definitions, args.use_case, config=args.settings)
        _logger.info("The governor of %s decides on retraining", case.name)
    return build_endpoint(EndpointArgs(**args.model_dump(exclude={"use_case"})))
