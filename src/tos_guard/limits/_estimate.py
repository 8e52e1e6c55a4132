"""What a request could take at most, what that costs, and what it took in the end.

- The largest maximum that the request declares counts, under whatever name, times the choices it asks for; a small one beside a large one
  bounds nothing. Where none is declared, the model's maximum does, else the provider's ceiling: never zero. One that means "no end" beside
  a number does not make less of that number.
- Only what no model answers in tokens, an embedding for one, takes no output; only what no model reads takes no input.
- The prompt is estimated from its size. A token is seldom shorter than two bytes, so that the default is too much rather than too little.
- What a response does not say keeps the estimate.
- All numbers may come from a hostile request or a careless upstream: they are cut to what engines can add.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tos_guard.limits._model import MAX_AMOUNT, Amounts, Usage

__all__ = ["DEFAULT_BYTES_PER_TOKEN", "DEFAULT_MAX_OUTPUT_TOKENS", "DEFAULT_TOKENS_PER_MEDIA", "Price", "actual", "cost", "estimate"]

DEFAULT_MAX_OUTPUT_TOKENS: Final = 4_096
"""Output of a request that declares no maximum, for a model without one."""

DEFAULT_BYTES_PER_TOKEN: Final = 2
"""English has about four bytes of UTF-8 in a token, code and Chinese about three; hardly any text has less than two."""

DEFAULT_TOKENS_PER_MEDIA: Final = 2_000
"""One image in high resolution, or a minute of sound, takes about that much."""

_MILLION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, in millionths of the provider's currency unit for a million tokens: a unit is 1,000,000.

    Attributes:
        input: Of the prompt.
        output: Of the response.
        reasoning: Of the part of the response spent on reasoning; None for the same as the rest.
    """

    input: int
    output: int
    reasoning: int | None = None


def cost(price: Price, *, input_tokens: int, output_tokens: int, reasoning_tokens: int | None = None) -> int:
    """What tokens cost, in millionths of the currency unit, rounded up.

    Args:
        price: The model's.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens of the response, reasoning included.
        reasoning_tokens: Those of them spent on reasoning; None for unknown, which counts as whatever is dearer.
    """
    each = price.output if price.reasoning is None else price.reasoning
    if reasoning_tokens is None:
        total = input_tokens * price.input + output_tokens * max(price.output, each)
    else:
        reasoning = min(reasoning_tokens, output_tokens)
        total = input_tokens * price.input + (output_tokens - reasoning) * price.output + reasoning * each
    return _bounded(-(-total // _MILLION))


def estimate(
    *,
    declared: Iterable[int],
    is_open_ended: bool = False,
    prompt_bytes: int,
    choices: int = 1,
    media_parts: int = 0,
    model_maximum: int | None = None,
    default_maximum: int = DEFAULT_MAX_OUTPUT_TOKENS,
    bytes_per_token: int = DEFAULT_BYTES_PER_TOKEN,
    tokens_per_media: int = DEFAULT_TOKENS_PER_MEDIA,
    price: Price | None = None,
    takes_input: bool = True,
    gives_output: bool = True,
) -> Amounts:
    """The most that a request could take.

    Args:
        declared: Every maximum of output tokens that it declares; those below 1 say nothing.
        is_open_ended: It also says that there is no maximum: then at least as much as where it declares none.
        prompt_bytes: Size of what the model reads, in bytes of UTF-8.
        choices: Most responses that are generated for it.
        media_parts: Images, sounds and files in the prompt.
        model_maximum: Output tokens that the model can give, where known.
        default_maximum: Output tokens where neither says.
        bytes_per_token: Bytes of prompt that are one token.
        tokens_per_media: Tokens of one media part.
        price: The model's, or None for no cost.
        takes_input: A model reads the prompt; else it takes no tokens.
        gives_output: A model answers in tokens; else there is no output, whatever is declared.

    Returns:
        Amounts for one request. Reasoning may take all of the output.
    """
    largest = max((maximum for maximum in declared if maximum > 0), default=0)
    if is_open_ended or not largest:
        largest = max(largest, model_maximum or default_maximum)
    output = _bounded(max(1, largest) * max(1, choices)) if gives_output else 0
    prompt = _bounded(max(1, -(-prompt_bytes // bytes_per_token) + media_parts * tokens_per_media)) if takes_input else 0
    most = 0 if price is None else cost(price, input_tokens=prompt, output_tokens=output)
    return Amounts(input_tokens=prompt, output_tokens=output, reasoning_tokens=output, cost=most)


def actual(usage: Usage | None, *, reserved: Amounts, price: Price | None = None) -> Amounts:
    """What a request took: what the response says, and the estimate for what it does not say.

    Args:
        usage: What the response says.
        reserved: What was reserved.
        price: The model's, or None to keep the reserved cost.
    """
    if usage is None:
        return reserved
    prompt = reserved.input_tokens if usage.input_tokens is None else _bounded(usage.input_tokens)
    output = reserved.output_tokens if usage.output_tokens is None else _bounded(usage.output_tokens)
    reasoning = None if usage.reasoning_tokens is None else _bounded(usage.reasoning_tokens)
    charged = reserved.cost
    if price is not None:
        charged = cost(price, input_tokens=prompt, output_tokens=output, reasoning_tokens=reasoning)
    if reasoning is None:
        reasoning = min(reserved.reasoning_tokens, output)
    return Amounts(requests=reserved.requests, input_tokens=prompt, output_tokens=output, reasoning_tokens=reasoning, cost=charged)


def _bounded(number: int) -> int:
    return min(max(0, number), MAX_AMOUNT)
