"""What a plan may use of the cluster."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback

from vsa_ray import storage
from vsa_ray.datasets.cluster import mapped, require_shared
from vsa_ray.outputs import JOB, OutputError

pytestmark = pytest.mark.cluster

# Workers cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

limits: list[float] = []
"""CPUs that a plan may use, at each of its steps."""


class Limits(ExecutionCallback):
    def on_execution_step(self, executor: Any) -> None:
        limits.append(executor._resource_manager.get_global_limits().cpu)


class Slow:
    def __call__(self, table: pa.Table) -> pa.Table:
        time.sleep(0.2)
        return table


def same(table: pa.Table) -> pa.Table:
    return table


def test_shares_of_cpus_leave_the_rest_to_others() -> None:
    """For longer than Ray Data waits between two looks at what it needs."""
    limits.clear()
    plan = ray.data.range(150, override_num_blocks=150).map_batches(
        Slow, compute=ray.data.ActorPoolStrategy(size=2), batch_format="pyarrow", num_cpus=0.45
    )
    plan = mapped(plan, same, num_cpus=0.25)
    plan.context.custom_execution_callback_classes = [Limits]
    assert sum(1 for _ in plan.iter_rows()) == 150
    assert {limit for limit in limits if limit} == {2.0}  # 0 until it is known


def test_a_folder_that_a_node_does_not_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed, nowhere = str(tmp_path / "claimed"), str(tmp_path / "nowhere")
    storage.write_json(storage.join(claimed, JOB), {})
    require_shared(nowhere)  # there is but one node
    nodes = 2 * ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    require_shared(claimed)
    require_shared("s3://bucket/anywhere")
    with pytest.raises(OutputError, match=r"nowhere is a folder that node .* does not have"):
        require_shared(nowhere)
