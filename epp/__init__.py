"""The endpoint picker service. Rooms and what each may import: ARCHITECTURE.md."""
