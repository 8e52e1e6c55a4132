"""`tos-guard doctor`: what is wrong with an installation, before a customer finds it.

`_installation` looks at settings, keys, files and the clock, `_rules` at terms, accounts, limits and failure modes, `_app` at an
application's middleware and routes without starting it, `_wire` at what arrives over the network, proxies included. Each yields
`Check` values; nothing is repaired, and nothing is written but what opening a store writes.
"""

from tos_guard.cli._doctor._command import doctor

__all__ = ["doctor"]
