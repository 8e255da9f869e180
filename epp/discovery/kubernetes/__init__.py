"""Endpoints, objectives and rewrites from a Kubernetes API server.

`api` is the connection, `credentials` who we are there, `watcher` the one loop that follows any kind of object. Everything that
decides what objects mean is pure.
"""
