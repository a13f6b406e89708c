"""Checks by subject; `CHECKS` is all of them."""

from sfumato.verify.checks.registry import CHECKS

__all__ = ["CHECKS"]
