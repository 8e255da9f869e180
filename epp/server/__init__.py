"""Sockets: the gRPC shells over one core, health, TLS, and the HTTP pages."""
