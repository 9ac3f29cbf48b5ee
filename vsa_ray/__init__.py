"""Deep visual-semantic alignments on Ray. Start reading at `schema.py`."""

__version__ = "0.1.0"
