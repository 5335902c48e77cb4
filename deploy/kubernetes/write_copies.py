"""Writes what Kubernetes files have to repeat: `python deploy/kubernetes/write_copies.py` after a change of a source.

The alert rules of deploy/prometheus, as Prometheus' operator reads them, and the Serve file, as a text in a RayService.
"""

from pathlib import Path

import yaml

HERE = Path(__file__).parent
ALERTS = HERE.parent / "prometheus" / "alerts.yaml"
SERVE = HERE.parents[1] / "serve_configs" / "production.yaml"


def prometheus_rule() -> str:
    return (
        "# Written from deploy/prometheus/alerts.yaml by write_copies.py.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: mlops-ray\n"
        f"spec:\n{_indented(ALERTS.read_text(), 2)}"
    )


def ray_service() -> str:
    return (
        "# Written from serve_configs/production.yaml by write_copies.py. kustomization.yaml adds the cluster.\n"
        "apiVersion: ray.io/v1\nkind: RayService\nmetadata:\n  name: endpoints\n  annotations:\n"
        '    ray.io/overwrite-container-cmd: "true"\n'
        f"spec:\n  excludeHeadPodFromServeSvc: true\n  serveConfigV2: |\n{_indented(SERVE.read_text(), 4)}"
    )


COPIES = {HERE / "base" / "prometheus-rule.yaml": prometheus_rule, HERE / "base" / "ray-service.yaml": ray_service}


def _indented(text: str, by: int) -> str:
    yaml.safe_load(text)  # a file that is none is not copied
    return "".join(f"{' ' * by}{line}" if line.strip() else line for line in text.splitlines(keepends=True))


if __name__ == "__main__":
    for file, written in COPIES.items():
        file.write_text(written())
