"""The endpoint picker service. Rooms and what each may import: ARCHITECTURE.md."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed_version


def version() -> str:
    """The installed version of the distribution."""
    try:
        return _installed_version("llm-epp")
    except PackageNotFoundError:
        return "unknown (not installed)"
