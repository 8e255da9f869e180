"""`epp schema`: the JSON Schema of configurations, for editors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from epp.api import ConfigError
from epp.app import make_registry
from epp.config.json_schema import config_schema
from epp_plugins.registry import ALIASES


def schema(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, or 2 when an installed plugin cannot be used; the schema then lacks its type."""
    _parser().parse_args(arguments)
    try:
        document, failures = config_schema(make_registry(), former_names=ALIASES)
    except ConfigError as error:
        print(f"epp schema: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document, indent=2, ensure_ascii=False))
    for failure in failures:
        print(f"epp schema: {failure}", file=sys.stderr)
    return 2 if failures else 0


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="epp schema",
        description="Print the JSON Schema (draft 2020-12) of an EndpointPickerConfig, with the parameters of every plugin "
        "type, those of installed packages included. Editors complete and check files with it.",
    )
