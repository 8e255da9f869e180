"""Our custom resource definitions say the same as the official ones, in our words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
OURS = ROOT / "deploy" / "crds"
OFFICIAL = ROOT / "tests" / "fixtures" / "crds"
NAMES = sorted(path.name for path in OURS.glob("infer*.yaml"))


def definition(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def official(name: str) -> dict[str, Any]:
    plural, group = name.removesuffix(".yaml").split(".", 1)
    return definition(OFFICIAL / f"{group}_{plural}.yaml")


def rules(schema: Any) -> Any:
    """A schema without what is only said to people."""
    if isinstance(schema, list):
        return [rules(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # A property may be called `description`; a description is text.
    kept = {k: v for k, v in schema.items() if not (k == "description" and isinstance(v, str))}
    return {k: sorted(v) if k == "required" else rules(v) for k, v in kept.items()}


def texts(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [text for item in schema for text in texts(item)]
    if not isinstance(schema, dict):
        return []
    own = [v for k, v in schema.items() if k == "description" and isinstance(v, str)]
    return own + [text for value in schema.values() for text in texts(value)]


def test_there_is_one_for_each_official_one() -> None:
    assert len(NAMES) == 6
    assert sorted(definition(OURS / "kustomization.yaml")["resources"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_names_versions_and_rules_are_the_official_ones(name: str) -> None:
    ours, theirs = definition(OURS / name), official(name)

    assert ours["metadata"]["name"] == theirs["metadata"]["name"]
    for key in ("group", "names", "scope"):
        assert ours["spec"][key] == theirs["spec"][key]
    [version], [official_version] = ours["spec"]["versions"], theirs["spec"]["versions"]
    for key in ("name", "served", "storage", "subresources"):
        assert version[key] == official_version[key]
    assert rules(version["schema"]) == rules(official_version["schema"])


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_described_in_our_own_words(name: str) -> None:
    ours, theirs = set(texts(definition(OURS / name))), set(texts(official(name)))

    assert ours
    assert not ours & theirs
