"""Front ends that Serve has ceased to tell where replicas are, as it does where a proxy once failed to reach it."""

import time
from typing import Any

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE


def deafen(proxy: Any) -> None:
    proxy.long_poll_client.is_running = False


def replace_replicas_unheard(application: str) -> None:
    """Kill the replicas of an application whose proxies are deaf, and wait until these know of those that follow."""
    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    every = ray.get(controller.get_proxies.remote()).values()
    proxies = [proxy for proxy in every if hasattr(proxy, "get_target_groups")]
    ray.get([proxy.__ray_call__.remote(deafen) for proxy in proxies])
    before = ray.get(controller.get_target_groups.remote(from_proxy_manager=True))
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith(f"SERVE_REPLICA::{application}#"):
            ray.kill(ray.get_actor(actor["name"], namespace=actor["namespace"]))
    while True:
        wanted = ray.get(controller.get_target_groups.remote(from_proxy_manager=True))
        known = ray.get([proxy.get_target_groups.remote() for proxy in proxies])
        if wanted != before and all(one == wanted for one in known):
            return
        time.sleep(0.5)
