"""The provider behind its guard, which is one interceptor.

python -m provider_grpc.server --settings tos-guard.toml --address 127.0.0.1:50051
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from tos_guard.guard import Guard
from tos_guard_grpc import GuardInterceptor

from .service import Continuing
from .text_pb2_grpc import add_TextServicer_to_server

__all__ = ["provider", "serving"]

THREADS = 16


def provider(interceptors: Sequence[grpc.ServerInterceptor] = ()) -> Any:
    """The provider as one finds it: no terms, no tags."""
    server = grpc.server(ThreadPoolExecutor(THREADS), interceptors=list(interceptors))
    add_TextServicer_to_server(Continuing(), server)
    try:
        from tritonclient.grpc.service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
    except ModuleNotFoundError:
        return server  # texts alone
    from .inference import Letters

    add_GRPCInferenceServiceServicer_to_server(Letters(), server)
    return server


@contextmanager
def serving(settings: Path, address: str = "127.0.0.1:0") -> Iterator[str]:
    """The provider, guarded. Yields where it listens."""
    guard = Guard.from_file(settings)
    try:
        server = provider([GuardInterceptor(guard)])
        port = server.add_insecure_port(address)  # behind a proxy that ends TLS; else add_secure_port
        server.start()
        try:
            yield f"{address.rpartition(':')[0]}:{port}"
        finally:
            server.stop(grace=5).wait()
    finally:
        guard.close_stores()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the guarded provider.")
    parser.add_argument("--settings", type=Path, default=Path("tos-guard.toml"))
    parser.add_argument("--address", default="127.0.0.1:50051")
    options = parser.parse_args()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # in the server's threads as well: they are waited for, and interrupt nothing
    with serving(options.settings, options.address) as target:
        print(f"listening on {target}", flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
