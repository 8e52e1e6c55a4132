"""`tos_guard` for gRPC servers and channels."""
