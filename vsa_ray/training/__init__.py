"""Training on Ray: `tasks` says what is learned from a batch, `loop` runs it on any cluster."""
