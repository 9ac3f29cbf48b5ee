"""Training on Ray: `tasks` defines what is learned from a batch, `loop` runs it on a cluster."""
