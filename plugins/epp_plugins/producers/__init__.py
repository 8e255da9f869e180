"""Data producers: what filters and scorers know about a request beyond the columns."""
