"""A small Flask provider of chat completions."""
