"""Configuration: reads an EndpointPickerConfig, says everything that is wrong with it, fills in defaults, builds the pipeline.

`load_file` or `load_text` read, `build` makes a Pipeline out of what they give or raises InvalidConfig, `describe` and
`to_yaml` show the result. Plugin classes come from a Registry; this room knows no plugin but by its type's name.
"""

from epp.config.build import build, resolved_of
from epp.config.describe import BodyNeeds, body_needs, describe
from epp.config.environment import Environment
from epp.config.load import load_bytes, load_default, load_file, load_text
from epp.config.model import Band, ConfigFile, FlowControl, Loaded
from epp.config.pipeline import ParserTable, Pipeline
from epp.config.problems import InvalidConfig, Place, Problem, Severity
from epp.config.registry import ENTRY_POINT_GROUP, Registry
from epp.config.resolved import DataLayer, PluginSpec, ProfileSpec, Resolved, SourceSpec, config_hash, to_yaml

__all__ = [
    "ENTRY_POINT_GROUP",
    "Band",
    "BodyNeeds",
    "ConfigFile",
    "DataLayer",
    "Environment",
    "FlowControl",
    "InvalidConfig",
    "Loaded",
    "ParserTable",
    "Pipeline",
    "Place",
    "PluginSpec",
    "Problem",
    "ProfileSpec",
    "Registry",
    "Resolved",
    "Severity",
    "SourceSpec",
    "body_needs",
    "build",
    "config_hash",
    "describe",
    "load_bytes",
    "load_default",
    "load_file",
    "load_text",
    "resolved_of",
    "to_yaml",
]
