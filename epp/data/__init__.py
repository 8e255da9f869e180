"""What is known about the endpoints: the datastore, what is fetched from model servers, objectives and model rewrites.

Everything here is plain data and calls, except `collector`, `scraper` and `http_connection`, which do I/O, and `bearer_token`
and `metrics_source`, which read small files.
"""
