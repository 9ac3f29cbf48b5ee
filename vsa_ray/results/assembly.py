"""Assemble what the parts of a reproduction measured into the content of a docs/results file.

It includes the parts of metrics.json as means over the seeds: `retrieval` for the row that was best
on dev, `grounding` with all that the detector knows, `captions` for the widest beam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vsa_ray.results.grounding import WITH_DETECTOR
from vsa_ray.results.spread import mean_and_spread

Rows = Mapping[str, Mapping[str, Any]]
"""Results of one seed: row name -> numbers."""


def assemble(found: Mapping[str, Any]) -> dict[str, Any]:
    """Combine the parts of a reproduction as means and deviations over the seeds.

    Args:
        found: what Recipe measures: `choice`; one `retrieval`, `grounding`, `chain`, `captions`
            and `decoding` per seed; `losses` and `boxes`.
    """
    headline = found["choice"]["retrieval"]
    parts = {
        "retrieval": [rows[headline] for rows in found["retrieval"]],
        "grounding": [rows[WITH_DETECTOR] for rows in found["grounding"]],
        "captions": [next(iter(rows.values())) for rows in found["captions"]],
    }
    means = {name: mean_and_spread(seeds) for name, seeds in parts.items()}
    return {
        **{name: mean for name, (mean, _) in means.items()},
        "spread": {name: spread for name, (_, spread) in means.items()},
        "choice": found["choice"],
        "decoding": found["decoding"],
        "retrieval_rows": over_seeds(found["retrieval"]),
        "losses": over_seeds([found["losses"]]),
        "grounding_rows": over_seeds(found["grounding"]),
        "chain": over_seeds(found["chain"]),
        "caption_rows": over_seeds(found["captions"]),
        "box_rows": over_seeds([found["boxes"]]),
    }


def over_seeds(seeds: Sequence[Rows]) -> dict[str, dict[str, Any]]:
    """Mean and spread of each row over the seeds that have it."""
    table = {}
    for name in seeds[0]:
        mean, spread = mean_and_spread([rows[name] for rows in seeds if name in rows])
        table[name] = {"mean": mean, "spread": spread}
    return table
