"""Tunesmith's engine: plan, run and prove LLM fine-tunes. Knows nothing of MCP."""

__version__ = "0.1.0"
