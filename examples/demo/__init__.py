"""A day at a guarded provider: see README.md."""
