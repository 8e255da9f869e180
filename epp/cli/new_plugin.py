"""`epp new-plugin`: writes the beginning of a plugin package, which installs, is found by its type, and passes its test."""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Final

from epp.api import ConfigError
from epp.app import make_registry
from epp.cli.plugin_templates import MODULES, PYPROJECT, README, TEST
from epp.config import Registry

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)


class _Refused(Exception):
    """The text says why nothing was written."""


def new_plugin(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, 1 when a file cannot be written, 2 for a name or a folder that cannot be used."""
    options = _parser().parse_args(arguments)
    folder = Path(options.out or options.name)
    try:
        _check_name(options.name, make_registry())
        files = _files(options.name, options.kind)
        _check_folder(folder, files)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            # "x": a file that has come about meanwhile is not overwritten either.
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
            print(folder / name)
    except (_Refused, ConfigError) as error:
        print(f"epp new-plugin: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"epp new-plugin: cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _check_name(name: str, registry: Registry) -> None:
    if not _NAME.fullmatch(name):
        raise _Refused(f"expected a name of small letters, digits and hyphens, such as my-scorer, got {name!r}")
    if name in registry or registry.current_name(name) != name:
        raise _Refused(f'the plugin type "{name}" is there already; choose another name')
    module = _module(name)
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module in ("epp", "test"):
        raise _Refused(f"a module cannot be named {module}: the name is Python's own; choose another name")


def _check_folder(folder: Path, files: Mapping[str, str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise _Refused(f"{folder} is not a folder; choose another one with --out")
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise _Refused(
            f"{folder} has {', '.join(there)} already, and nothing is overwritten; choose another folder with --out"
        )


def _files(name: str, kind: str) -> dict[str, str]:
    """Texts by file name."""
    words = {"name": name, "module": _module(name), "cls": _class(name), "kind": kind}
    templates = {
        "pyproject.toml": PYPROJECT,
        "README.md": README[kind],
        f"{words['module']}.py": MODULES[kind],
        f"test_{words['module']}.py": TEST[kind],
    }
    return {file: Template(text).substitute(words) for file, text in templates.items()}


def _module(name: str) -> str:
    return name.replace("-", "_")


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epp new-plugin",
        description="Write a package with one plugin: a module, a test that passes, a README and the pyproject.toml that "
        "makes the type known wherever the package is installed beside llm-epp.",
    )
    parser.add_argument("name", help="the plugin's type, as configurations name it: small letters, digits, hyphens")
    parser.add_argument("--kind", choices=sorted(MODULES), default="scorer", help="default: %(default)s")
    parser.add_argument("--out", metavar="DIR", help="where to; default: a folder with the plugin's name")
    return parser
