from __future__ import annotations

import ast
import inspect
import sys
from collections import Counter
from pathlib import Path

import pytest

from epp.api import Plugin
from epp_plugins.builtin_scheduling import SCHEDULING

ALLOWED = {"epp", "epp_plugins", "numpy", "msgspec", "xxhash"} | sys.stdlib_module_names


def test_no_type_is_there_twice() -> None:
    assert Counter(p.type for p in SCHEDULING).most_common(1)[0][1] == 1


@pytest.mark.parametrize("plugin", SCHEDULING, ids=lambda p: p.type)
def test_file_is_named_as_its_type(plugin: type[Plugin]) -> None:
    assert plugin.__module__.rpartition(".")[2] == plugin.type.replace("-", "_")


@pytest.mark.parametrize("plugin", SCHEDULING, ids=lambda p: p.type)
def test_of_the_service_only_its_api_is_imported(plugin: type[Plugin]) -> None:
    tree = ast.parse(Path(inspect.getfile(plugin)).read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}

    assert {module for module in imported if module.startswith("epp.")} <= {"epp.api"}
    assert {module.partition(".")[0] for module in imported} <= ALLOWED


def test_only_what_is_alpha_upstream_is_experimental() -> None:
    assert [p.type for p in SCHEDULING if p.experimental] == ["utilization-filter"]
