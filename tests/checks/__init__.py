"""The checks that learners call: `check_<exercise>(your_function)` prints what held or raises `CheckFailed`."""

from tests.checks.core import REGISTRY, CheckFailed

__all__ = ["REGISTRY", "CheckFailed"]
