"""`tos_guard` for Flask."""
