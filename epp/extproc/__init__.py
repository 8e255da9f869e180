"""The conversation with Envoy over ext_proc, without I/O: messages in, messages out. See `stream` for how it works."""
