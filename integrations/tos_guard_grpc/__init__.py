"""`tos_guard` for gRPC servers and channels.

A server is guarded by one interceptor, `GuardInterceptor` or `AsyncGuardInterceptor`. A channel verifies what it reads, under the stubs
that ``protoc`` made:

    verifier = Verifier(["https://api.example.com"])
    channel = verified_channel(grpc.secure_channel(target, credentials), verifier, issuer="https://api.example.com")
    stub = text_pb2_grpc.TextStub(channel)
"""

try:
    from tos_guard_grpc._admission import current_admission
    from tos_guard_grpc._channel import VerifiedCall, VerifiedChannel, VerifiedStream, verified_channel
    from tos_guard_grpc._channel_aio import AsyncVerifiedChannel, verified_async_channel
    from tos_guard_grpc._channel_checks import ChannelChecks, verified
    from tos_guard_grpc._guarding import GuardInterceptor
    from tos_guard_grpc._guarding_aio import AsyncGuardInterceptor
    from tos_guard_grpc._infer import verify_infer_result, verify_infer_stream
except ModuleNotFoundError as _missing:
    if _missing.name not in {"google", "grpc", "grpc_status"}:
        raise
    raise ModuleNotFoundError('gRPC is not installed: pip install "tos-guard[grpc]"', name=_missing.name) from _missing

__all__ = [
    "AsyncGuardInterceptor",
    "AsyncVerifiedChannel",
    "ChannelChecks",
    "GuardInterceptor",
    "VerifiedCall",
    "VerifiedChannel",
    "VerifiedStream",
    "current_admission",
    "verified",
    "verified_async_channel",
    "verified_channel",
    "verify_infer_result",
    "verify_infer_stream",
]
