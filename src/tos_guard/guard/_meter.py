"""What a request may take, what it took, and which limits are charged for it (DESIGN D4)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cachetools import LRUCache

from tos_guard.dialects import RequestFacts
from tos_guard.limits import (
    AccountLimits,
    Amounts,
    Charge,
    Dimension,
    Limit,
    Price,
    Usage,
    account_limits,
    actual,
    estimate,
)
from tos_guard.limits._estimate import DEFAULT_BYTES_PER_TOKEN, DEFAULT_MAX_OUTPUT_TOKENS, DEFAULT_TOKENS_PER_MEDIA
from tos_guard.rights import Holder
from tos_guard.types import Facts

__all__ = ["Estimator", "Meter", "ModelFacts"]

MAX_ACCOUNTS: Final = 10_000

Estimator = Callable[[RequestFacts, bytes], float]
"""Tokens of the prompt of a request and its body, as the host's own tokenizer counts or guesses them; rounded up."""

_NOTHING: Final = Usage(input_tokens=0, output_tokens=0, reasoning_tokens=0)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model.

    Attributes:
        max_output_tokens: Output tokens it can give, or None.
        price: What its tokens cost, or None.
    """

    max_output_tokens: int | None = None
    price: Price | None = None


class Meter:
    """The limits of one guard. Any thread may call.

    Args:
        limits: All limits; none means that nothing is charged.
        models: What is known of models, by name.
        bytes_per_token: Bytes of a prompt that are counted as one token.
        tokens_per_media: Tokens that one image, sound or file is counted as.
        default_max_output_tokens: Output tokens of a request that declares no maximum, for a model without one.
        count_prompt: Counts the tokens of a prompt, in place of its size.
    """

    def __init__(
        self,
        limits: Iterable[Limit],
        *,
        models: Mapping[str, ModelFacts] = MappingProxyType({}),
        bytes_per_token: int = DEFAULT_BYTES_PER_TOKEN,
        tokens_per_media: int = DEFAULT_TOKENS_PER_MEDIA,
        default_max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS,
        count_prompt: Estimator | None = None,
    ) -> None:
        self.limits: tuple[Limit, ...] = tuple(limits)
        self._models = models
        self._bytes_per_token = bytes_per_token
        self._tokens_per_media = tokens_per_media
        self._default_max_output_tokens = default_max_output_tokens
        self._count_prompt = count_prompt
        self._compiled: LRUCache[tuple[str, tuple[tuple[str, int], ...], float], tuple[Holder, AccountLimits]] = LRUCache(MAX_ACCOUNTS)
        self._lock = threading.Lock()

    def estimate(self, request: RequestFacts, body: bytes) -> Amounts:
        """The most that a request could take."""
        known = self._models.get(request.model, _UNKNOWN)
        counted = math.ceil(self._count_prompt(request, body)) if self._count_prompt is not None else None
        return estimate(
            declared=() if request.max_output_tokens is None else (request.max_output_tokens,),
            is_open_ended=request.is_open_ended,
            prompt_bytes=len(body) if counted is None else counted,
            choices=request.choices,
            media_parts=request.media_parts if counted is None else 0,
            model_maximum=known.max_output_tokens,
            default_maximum=self._default_max_output_tokens,
            bytes_per_token=self._bytes_per_token if counted is None else 1,
            tokens_per_media=self._tokens_per_media,
            price=known.price,
            takes_input=request.takes_input,
            gives_output=request.gives_output,
        )

    def actual(self, usage: Usage | None, *, reserved: Amounts, model: str) -> Amounts:
        """What it took: what the response says, and the estimate for what it does not say."""
        return actual(usage, reserved=reserved, price=self._models.get(model, _UNKNOWN).price)

    def nothing_served(self, *, reserved: Amounts, model: str) -> Amounts:
        """What a request took that the provider answered with an error: itself, and no tokens."""
        return actual(_NOTHING, reserved=reserved, price=self._models.get(model, _UNKNOWN).price)

    def charges(
        self, holder: Holder, larger: Mapping[str, int], facts: Facts, amounts: Amounts, *, share: float = 1.0
    ) -> tuple[Charge, ...]:
        """What limits are charged for a request.

        Args:
            holder: Who asks.
            larger: Amounts by limit id that grants give.
            facts: What is known of the request.
            amounts: The most that it could take.
            share: Part of the account's own amounts that its standing leaves.
        """
        if not self.limits:
            return ()
        return self.of(holder, larger, share=share).charges(amounts, model=facts.model, action=facts.action, end_user=facts.end_user)

    def of(self, holder: Holder, larger: Mapping[str, int], *, share: float = 1.0) -> AccountLimits:
        """The limits of an account with the amounts that hold for it."""
        account = holder.account
        key = (account.id, tuple(larger.items()), share)
        with self._lock:
            known, compiled = self._compiled.get(key, (None, None))
        # By what they are and not by their versions: an account that was deleted and added again may have its version again.
        if compiled is None or not (known is holder or _have_same_limits(known, holder)):
            compiled = account_limits(
                self.limits,
                account=account.id,
                organization=account.organization,
                kind=account.kind,
                overrides=self._amounts(holder, larger, share),
            )
            with self._lock:
                self._compiled[key] = holder, compiled
        return compiled

    def _amounts(self, holder: Holder, larger: Mapping[str, int], share: float) -> dict[str, int]:
        """Amounts that are not the settings' own: a grant's where it is larger, else the account's or its organization's; its share."""
        amounts: dict[str, int] = {}
        for limit in self.limits:
            is_shared = Dimension.ACCOUNT not in limit.per
            whose = holder.organization if is_shared and Dimension.ORGANIZATION in limit.per else holder.account
            own = limit.amount if whose is None else whose.limits.get(limit.id, limit.amount)
            # What one account was granted, or has lost, does not move a limit that others share.
            amounts[limit.id] = own if is_shared else _part(max(own, larger.get(limit.id, own)), share)
        return amounts


def _part(amount: int, share: float) -> int:
    """What a step of standing leaves of an amount: never nothing, where there was something."""
    return amount if share == 1 else min(amount, max(1, int(amount * share)))


def _have_same_limits(one: Holder | None, other: Holder) -> bool:
    """Whether the same limits, with the same amounts, concern both."""
    return one is not None and _limits_by(one) == _limits_by(other)


def _limits_by(holder: Holder) -> tuple[object, ...]:
    account, organization = holder.account, holder.organization
    return account.kind, account.organization, account.limits, organization.limits if organization is not None else None


_UNKNOWN: Final = ModelFacts()
