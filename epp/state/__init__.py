"""What plugins have learned, on disk: kept over a restart of the process where `--state-dir` is given."""

from epp.state.directory import StateDir
from epp.state.file import StateFileError

__all__ = ["StateDir", "StateFileError"]
