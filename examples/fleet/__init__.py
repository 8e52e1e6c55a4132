"""A fleet under load, and what happens to it: see README.md."""
