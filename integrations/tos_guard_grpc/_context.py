"""What servicers get in place of gRPC's context: the same, but for what would end a call without its token.

- Everything that is not named here is the inner context's, whatever its name: interceptors and servicers use more than gRPC documents.
- The first initial metadata to leave has ours in it; trailing metadata is kept, and merged with ours when the call ends.
- ``abort`` seals first: under aio it sends the status, and nothing could be added afterwards.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from tos_guard.guard import Admission
from tos_guard_grpc._call import Call, merged
from tos_guard_grpc._status import Metadata

__all__ = ["AsyncGuardedContext", "GuardedContext", "PassedContext", "code_of", "status_of"]

_OWN: Final = frozenset({"_call", "_end", "_inner", "_read", "_send", "_trailing", "_code", "_write"})

_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}


class _Forwarding:
    """Forwards whatever it does not say itself."""

    def __init__(self, inner: Any, call: Call) -> None:
        self._inner = inner
        self._call = call
        self._trailing: Any = None
        self._code: grpc.StatusCode | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
            return
        try:
            setattr(self._inner, name, value)
        except AttributeError:  # gRPC's aio context takes none
            object.__setattr__(self, name, value)

    @property
    def tos_guard_admission(self) -> Admission | None:
        """What the servicer may know of its call (`tos_guard_grpc.current_admission`)."""
        return self._call.admission

    def set_code(self, code: grpc.StatusCode) -> None:
        """As the inner context's. A number is the status that has it, as ``grpc.aio`` reads it."""
        self._code = status_of(code)
        self._inner.set_code(self._code)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """As the inner context's; ours is added when the call ends."""
        self._inner.set_trailing_metadata(trailing_metadata)
        self._trailing = trailing_metadata

    def trailing_metadata(self) -> Any:
        """What the servicer, or an interceptor, has set so far."""
        read = getattr(self._inner, "trailing_metadata", None)
        return self._trailing if read is None else read()

    def with_ours(self, ours: Metadata) -> Metadata:
        """What the servicer has set, and ours."""
        return merged(self.trailing_metadata(), ours)


class GuardedContext(_Forwarding):
    """The context of a servicer that runs in a thread.

    Args:
        inner: gRPC's, or an outer interceptor's.
        call: The call.
        send: Sends initial metadata, with ours.
        end: Ends the call: its status, details, and trailing metadata, or None for what was set.
    """

    def __init__(self, inner: Any, call: Call, send: Callable[[Any], None], end: Callable[[grpc.StatusCode, str, Any], None]) -> None:
        super().__init__(inner, call)
        self._send = send
        self._end = end

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send initial metadata, with ours."""
        self._send(initial_metadata)

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """End the call with a status, and its token."""
        self._end(status_of(code), details, trailing_metadata or None)

    def abort_with_status(self, status: Any) -> None:
        """End the call with a status, and its token."""
        self._end(status_of(status.code), status.details, status.trailing_metadata)


class AsyncGuardedContext(_Forwarding):
    """The context of a servicer that is a coroutine, or an asynchronous generator.

    Args:
        inner: gRPC's, or an outer interceptor's.
        call: The call.
        send: As of `GuardedContext`.
        end: As of `GuardedContext`.
        read: Reads a request message, decided.
        write: Writes a response message, digested.
    """

    def __init__(
        self,
        inner: Any,
        call: Call,
        *,
        send: Callable[[Any], Awaitable[None]],
        end: Callable[[grpc.StatusCode, str, Any], Awaitable[None]],
        read: Callable[[], Awaitable[Any]],
        write: Callable[[Any], Awaitable[None]],
    ) -> None:
        super().__init__(inner, call)
        self._send = send
        self._end = end
        self._read = read
        self._write = write

    async def read(self) -> Any:
        """The next request message, or ``EOF``. It is decided before it is given."""
        return await self._read()

    async def write(self, message: Any) -> None:
        """Send a response message."""
        await self._write(message)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send initial metadata, with ours."""
        await self._send(initial_metadata)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """End the call with a status, and its token."""
        await self._end(status_of(code), details, trailing_metadata or None)

    async def abort_with_status(self, status: Any) -> None:
        """End the call with a status, and its token."""
        await self._end(status_of(status.code), status.details, status.trailing_metadata)


class PassedContext(_Forwarding):
    """The context of a coroutine whose call passes: the same, but for a request message that the guard has read before.

    Args:
        inner: gRPC's, or an outer interceptor's.
        call: The call.
        read: Reads a request message.
    """

    def __init__(self, inner: Any, call: Call, read: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(inner, call)
        self._read = read

    async def read(self) -> Any:
        """The next request message, or ``EOF``."""
        return await self._read()


# Servicers and libraries ask whether they were given a context of gRPC's.
grpc.ServicerContext.register(GuardedContext)
grpc.aio.ServicerContext.register(AsyncGuardedContext)
grpc.aio.ServicerContext.register(PassedContext)


def code_of(context: Any) -> grpc.StatusCode:
    """The status that a handler has set, OK where it has set none."""
    said = getattr(context, "_code", None)
    if said is None and (read := getattr(context, "code", None)) is not None:
        said = read()
    return status_of(said)


def status_of(code: Any) -> grpc.StatusCode:
    """The status that a handler means: none is OK, a number the status that has it, and what is no status UNKNOWN, as gRPC makes of it."""
    if code is None:
        return grpc.StatusCode.OK
    if isinstance(code, grpc.StatusCode):
        return code
    return _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN) if isinstance(code, int) else grpc.StatusCode.UNKNOWN
