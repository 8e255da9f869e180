"""Profile handlers: which profiles run for a request, and which result is the destination."""
