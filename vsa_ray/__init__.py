"""Deep visual-semantic alignments on Ray. Start reading at `schema.py`."""
