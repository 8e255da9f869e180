"""The one path that a request takes: parse, rewrite, objective, admit, locate, produce, schedule, account, and the way back."""
