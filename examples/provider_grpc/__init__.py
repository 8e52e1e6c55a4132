"""A small gRPC provider: texts of four kinds of method, and Open Inference for Triton's client. `server` guards it."""
