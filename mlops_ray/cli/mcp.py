"""The command `mlops-ray mcp`: an assistant asks, with the key of who runs it."""

from mlops_ray.cli.options import DEFAULT_URL, ConfigOption, StateOption, UrlOption
from mlops_ray.cli.rollout import server
from mlops_ray.errors import ConfigurationError


def mcp(url: UrlOption = DEFAULT_URL, state: StateOption = None, config: ConfigOption = None) -> None:
    """Let an assistant read versions, lineage, alarms, approvals, drift and profiles, over stdin and stdout (MCP).

    It asks the server at --url with the key in MLOPS_RAY_API_KEY, and changes nothing.
    """
    with server(url, state, config) as client:
        try:
            from mlops_ray.assistant.server import assistant
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
                raise
            raise ConfigurationError(
                "The package mcp is not installed. Install it: pip install 'mlops_ray[mcp]'"
            ) from None
        assistant(client).run("stdio")
