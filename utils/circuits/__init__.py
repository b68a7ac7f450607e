"""Circuits: which parts of a model pass what to which others, and what they do together."""
