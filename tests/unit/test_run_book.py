"""Whoever is woken by an alert finds its section, and no section is of an alert that is gone."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SEVERITIES = {"critical": "**Critical.**", "warning": "**Warning.**", "info": "**Information.**"}


def alerts() -> dict[str, str]:
    """Each alert's severity."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
    return {one["alert"]: one["labels"]["severity"] for group in rules["groups"] for one in group["rules"]}


def sections() -> dict[str, str]:
    _, *parts = re.split(r"^## ", (ROOT / "docs" / "run-book.md").read_text(), flags=re.MULTILINE)
    return {title: text for title, _, text in (part.partition("\n") for part in parts)}


def test_each_alert_has_its_section_and_each_section_its_alert_in_the_same_order() -> None:
    assert list(sections()) == list(alerts())


def test_a_section_says_how_urgent_it_is_as_the_rule_does() -> None:
    said = sections()
    for name, severity in alerts().items():
        assert said[name].strip().startswith(SEVERITIES[severity]), name
