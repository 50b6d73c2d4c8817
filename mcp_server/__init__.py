"""The MCP face of Tunesmith: declares tools, resources and prompts, and translates errors. No logic of its own."""
