"""Waiting for conditions."""

from goverse.testing.conformance.waiting import eventually

__all__ = ["eventually"]
