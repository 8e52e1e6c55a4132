"""HTTP without a framework: the ASGI middleware and the well-known documents. Standard library only."""
