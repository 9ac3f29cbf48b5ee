"""What a machine says of itself."""

import os

import pytest

from vsa_ray import machine


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_process_counts_the_cpus_that_it_may_run_on() -> None:
    allowed = os.sched_getaffinity(0)
    assert machine.cpus() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert machine.cpus() == 1
        assert machine.processor().partition(";")[0].endswith(" 1 CPU(s)")
    finally:
        os.sched_setaffinity(0, allowed)
