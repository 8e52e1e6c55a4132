"""A program that uses a gRPC provider and verifies every answer. Run it with ``python -m downstream_grpc``."""
