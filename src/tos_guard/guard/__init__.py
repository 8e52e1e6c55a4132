"""The shell around one exchange: who asks, under which plan, what is recorded, what is signed (DESIGN §5, D1).

Each step that needs the outside is a generator that yields what it needs (`FindAccount`, `CurrentKey`, `Sign`, `Keep`). `Guard` and
`AsyncGuard` differ only in how they serve these. An adapter calls, in this order:

    account  = run(guard.authenticate(view))          AuthenticationError → guard.refuse
    exchange = guard.begin(account, view, route, body)
    run(guard.keep_denial(exchange))                  where it was denied → guard.refuse
    token    = run(guard.pending(exchange))           where the head goes out early
    sealed   = run(guard.seal(exchange, response, …)) when a step says seal: signed, recorded, then given out
    run(guard.close(exchange, response, …))           in any case, once, in the end
"""

from tos_guard.guard._colours import AsyncGuard, Guard
from tos_guard.guard._needs import Admission, RequestView, Route
from tos_guard.guard._refusals import unavailable
from tos_guard.guard._steps import Assertions, Identifier, utc_now

__all__ = ["Admission", "Assertions", "AsyncGuard", "Guard", "Identifier", "RequestView", "Route", "unavailable", "utc_now"]
