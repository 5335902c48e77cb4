"""HAProxy with the configuration that Serve would write for one application, before a replica of the test's own."""

import os
import sys

from mlops_ray.serving.environment import serve_environment

PREFIX = "/v2/models/departures"

if __name__ == "__main__":
    port, replica_port, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    environment = serve_environment()
    os.environ.update(environment)

    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        socket_path=f"{folder}/admin.sock",
        server_state_base=folder,
        server_state_file=f"{folder}/server-state",
        has_received_routes=replica_port > 0,
        has_received_servers=replica_port > 0,
        is_head=True,
    )
    backends = {}
    if replica_port:
        servers = [ServerConfig(name="replica", host="127.0.0.1", port=replica_port)]
        backends["app"] = BackendConfig(name="app", path_prefix=PREFIX, servers=servers, app_name="app")
    api = HAProxyApi(config, backends, config_file_path=f"{folder}/haproxy.cfg")
    api._generate_config_file_internal()
    binary = environment["RAY_SERVE_HAPROXY_BINARY_PATH"]
    os.execv(binary, [binary, "-db", "-f", f"{folder}/haproxy.cfg", "-dR"])
