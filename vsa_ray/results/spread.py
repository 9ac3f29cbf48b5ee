"""Results of several seeds to their mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

Nested = Mapping[str, Any]


def mean_and_spread(results: Sequence[Nested]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results of one shape, one a seed -> their mean, and their standard deviation, of that shape.

    What is no number, or is missing somewhere, is taken from the first; it has no spread. A single
    result has none at all.
    """
    mean: dict[str, Any] = {}
    spread: dict[str, Any] = {}
    for key, first in results[0].items():
        values = [result.get(key) for result in results]
        if all(isinstance(value, Mapping) for value in values):
            mean[key], inner = mean_and_spread([value for value in values if value is not None])
            if inner:
                spread[key] = inner
        elif numbers := _all_numbers(values):
            # The same number in all stays what it is: a count stays whole.
            mean[key] = first if len(set(numbers)) == 1 else fmean(numbers)
            if len(numbers) > 1:
                spread[key] = stdev(numbers)
        else:
            mean[key] = first
    return mean, spread


def _all_numbers(values: Sequence[object]) -> list[float]:
    """The values, where every one is a number; else nothing."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return numbers if len(numbers) == len(values) else []
