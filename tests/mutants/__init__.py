"""Mutation testing of the checks: `python -m tests.mutants` (see `tests.mutants.__main__`)."""
