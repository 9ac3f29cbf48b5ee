"""Mean and standard deviation of results over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

Nested = Mapping[str, Any]


def mean_and_spread(results: Sequence[Nested]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nested results of the same shape, one per seed -> their mean and their standard deviation.

    Values that are not numbers, or are missing in some seed, are taken from the first seed and have
    no spread. A single result has no spread at all.
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
            # If all are equal, keep the value: a count stays an int.
            mean[key] = first if len(set(numbers)) == 1 else fmean(numbers)
            if len(numbers) > 1:
                spread[key] = stdev(numbers)
        else:
            mean[key] = first
    return mean, spread


def _all_numbers(values: Sequence[object]) -> list[float]:
    """The values if all of them are numbers, otherwise an empty list."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return numbers if len(numbers) == len(values) else []
