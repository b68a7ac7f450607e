"""Data files, read through `importlib.resources`: figures to compare with, the grammar of part two, and traits."""
