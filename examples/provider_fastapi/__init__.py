"""A small FastAPI provider of chat completions, with a real language model and a deterministic stand-in."""
