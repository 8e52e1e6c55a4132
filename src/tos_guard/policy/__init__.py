"""What may be done with the output: the usage policy, and its projections into public vocabularies (DESIGN D13)."""

from tos_guard.policy._usage import UsagePolicy, usage_policy

__all__ = ["UsagePolicy", "usage_policy"]
