"""What operators see: counts, OpenTelemetry metrics, spans and events (docs/guides/telemetry.md).

- Only OpenTelemetry's API is spoken. The SDK, its exporters and the global providers are the host's.
- Nothing here raises: if telemetry fails, the request goes on and the loss is counted.
- Every attribute comes from a closed set, or from what the provider has configured. Never an account, a key, an end user, a prompt,
  an output or an address: not even the name of a model, which the caller writes.
- The server's span is enriched; a second one is never opened.
"""

from tos_guard.telemetry._telemetry import Observed, Telemetry

__all__ = ["Observed", "Telemetry"]
