"""One script a job; `python -m jobs.NAME --help` says what it takes. `pipeline` runs the chain."""
