"""One script a job; `python -m jobs.NAME --help` says what it takes. `pipeline` runs the chain.

What they share: launch.py (how they start and end), settings.py, and of `reproduce` side_by_side.py
and recipe_parts.py.

Ray takes some settings from the environment alone, of every process that runs a part of a job: a
trial of a search on another node starts its workers itself. Each of them imports this package.
"""

from __future__ import annotations

import os

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Processes that read the footers of a table's files, 32 by default: each takes more than a
    # second of a CPU to start, and one reads them fast enough.
    "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "1",
    # How often Ray Train looks at its workers, and so the least time that an epoch takes.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # How long it waits for room before it counts the nodes anew, as often as it takes: it may be
    # waiting for one that has just died.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    # Ray's head keeps what it knows of a task for its dashboard, of 100,000 tasks by default.
    "RAY_task_events_max_num_task_in_gcs": "5000",
    # Ctrl-C ends a search as it ends any job; Ray's own handler would return half a result.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
"""Settings that a user's own environment may overrule."""

for _name, _value in RAY_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
