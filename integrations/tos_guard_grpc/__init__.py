"""`tos_guard` for gRPC servers and channels."""

from tos_guard_grpc._admission import current_admission
from tos_guard_grpc._guarding import GuardInterceptor
from tos_guard_grpc._guarding_aio import AsyncGuardInterceptor

__all__ = ["AsyncGuardInterceptor", "GuardInterceptor", "current_admission"]
