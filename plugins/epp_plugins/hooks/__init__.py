"""Hooks: plugins that only watch or mark requests and responses."""
