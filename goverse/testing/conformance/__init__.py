"""Suites that say what an interface means; every implementation runs them, yours too.

Subclass a suite in a test module and provide its ``backend`` fixture.
"""
