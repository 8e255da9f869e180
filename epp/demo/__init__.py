"""Real servers on one machine: a small model, llama.cpp servers that run it, and an Envoy in front."""
