"""Exactly-once calls: accepted into the ledger, run in order, their outcomes kept.

Knows the store's interface, and of objects the catalog's door for turns that have a record. How
a turn's outcome gets into the same commit as its state is the affair of `goverse.objects`.
"""
