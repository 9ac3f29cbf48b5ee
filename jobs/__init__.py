"""One script per job; `python -m jobs.NAME --help` lists its settings. `pipeline` runs all stages.

Shared code: launch.py (how jobs start and end), settings.py, and, for `reproduce`, side_by_side.py
and recipe_parts.py.

Ray reads some settings only from the environment of each process that runs part of a job (a trial
of a search on another node starts its workers itself). Every such process imports this package.
"""

from __future__ import annotations

import os

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Processes that read the footers of a table's files, 32 by default: each needs more than a CPU
    # second to start, and one is fast enough.
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",
    # How often Ray Train polls its workers, and so a lower bound on the time of an epoch.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # How long it waits for resources before it counts the nodes again, repeatedly: it may be
    # waiting for a node that has just died.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    # How many tasks Ray's head remembers for its dashboard; the default is 100,000.
    "RAY_task_events_max_num_task_in_gcs": "5000",
    # Ctrl-C ends a search like any job; Ray's own handler would return a partial result.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
"""Defaults that the user's environment overrides."""

for _name, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
