"""From text or a file to a ConfigFile. Nothing configured means the built-in default."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from epp.config.document import is_null, read_document
from epp.config.model import ConfigFile, Loaded
from epp.config.problems import Place, Problems
from epp.config.schema import read_config

MAX_BYTES: Final = 1 << 20

# Weights 2, 2, 3: queue and KV cache both say how loaded a server is, so that at 1, 1, 1 the prefix would count too little
# (the Go EPP's default since GIE pull request 1827). config/default.yaml spells out what else this brings.
BUILT_IN_DEFAULT: Final = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: metrics-data-source
- type: core-metrics-extractor
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
"""


# What the charts of the Go EPP configure with latencyPredictor.enabled.
BUILT_IN_PREDICTING: Final = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: predicted-latency-producer
- name: strict-affinity-filter
  type: prefix-cache-affinity-filter
  parameters: {affinityThreshold: 0.99, ttftSource: latencyPredictor, maxTTFTPenaltyMs: 5000}
- name: loose-affinity-filter
  type: prefix-cache-affinity-filter
  parameters: {ttftSource: latencyPredictor, maxTTFTPenaltyMs: 5000}
- type: slo-headroom-tier-filter
- type: latency-scorer
- type: weighted-random-picker
- type: latency-slo-admitter
- type: metrics-data-source
- type: core-metrics-extractor
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: strict-affinity-filter
  - pluginRef: slo-headroom-tier-filter
  - pluginRef: loose-affinity-filter
  - pluginRef: latency-scorer
  - pluginRef: weighted-random-picker
"""


def load_default(*, predicting: bool = False) -> Loaded:
    """The configuration that applies where none is given. `predicting`: the one that goes by predicted latencies."""
    loaded = _load(BUILT_IN_PREDICTING if predicting else BUILT_IN_DEFAULT, "<built-in default>")
    assert loaded.config is not None
    return Loaded(msgspec.structs.replace(loaded.config, built_in=True), loaded.problems)


def load_text(text: str, file: str = "<text>") -> Loaded:
    """Read YAML or JSON; `file` is the name that problems carry. A text without content gives the built-in default."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        problems = Problems(file)
        problems.error(Place(), f"expected at most {MAX_BYTES} bytes, got {size}")
        return Loaded(None, problems.found)
    return _load(text, file)


def load_file(path: str | Path) -> Loaded:
    """Read a file. One that cannot be read is a problem as well."""
    problems = Problems(str(path))
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problems.error(Place(), f"cannot read the file: {reason}")
        return Loaded(None, problems.found)
    return load_bytes(content, str(path))


def load_bytes(content: bytes, file: str) -> Loaded:
    """Read the content of a file; `file` is the name that problems carry."""
    problems = Problems(file)
    if len(content) > MAX_BYTES:
        problems.error(Place(), f"expected at most {MAX_BYTES} bytes")
        return Loaded(None, problems.found)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.error(Place("", line, 1), f"expected UTF-8 text, got the byte 0x{content[error.start]:02x}")
        return Loaded(None, problems.found)
    return load_text(text, file)


def _load(text: str, file: str) -> Loaded:
    problems = Problems(file)
    root = read_document(text, problems)
    if problems.failed and root is None:
        return Loaded(None, problems.found)
    if root is None or is_null(root):
        default = load_default()
        assert default.config is not None
        problems.warning(Place(), "is empty: the built-in default configuration is used")
        return Loaded(default.config, problems.found)
    config: ConfigFile = read_config(root, problems)
    return Loaded(config, problems.found)
