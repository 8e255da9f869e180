"""What is known about the endpoints: the datastore, the model servers' metrics, objectives and model rewrites.

Everything here is plain data and calls, except `collector` and `http_connection`, which do I/O.
"""
