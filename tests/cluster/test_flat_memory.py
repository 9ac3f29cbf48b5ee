"""A driver forgets the blocks that are through."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback

from vsa_ray.datasets.cluster import ForgetBlocks, mapped

pytestmark = pytest.mark.cluster

# Workers cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

BLOCKS = 20

remembered: list[int] = []
"""Blocks that Ray Data keeps statistics of, at each step of a plan."""


class Remember(ExecutionCallback):
    def on_execution_step(self, executor: Any) -> None:
        remembered.append(
            sum(len(getattr(one, "_output_blocks_stats", ())) for one in executor._topology)
        )


def same(table: pa.Table) -> pa.Table:
    return table


@pytest.mark.parametrize(("forgetting", "most"), [([], BLOCKS), ([ForgetBlocks], 0)])
def test_statistics_of_blocks_do_not_pile_up(
    forgetting: list[type[ExecutionCallback]], most: int
) -> None:
    remembered.clear()
    numbers = ray.data.range(BLOCKS, override_num_blocks=BLOCKS)
    plan = mapped(numbers, same, num_cpus=0.5)
    plan.context.custom_execution_callback_classes = [*forgetting, Remember]
    assert sum(1 for _ in plan.iter_rows()) == BLOCKS
    assert max(remembered) >= most if most else not any(remembered)
