"""The real tokens of prompts: from a vLLM server, or from a tokenizer's files; remembered by prompt."""
