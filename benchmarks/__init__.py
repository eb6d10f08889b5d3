"""Benchmarks: ``python -m benchmarks NAME``. Each measures Goverse beside its limits or peers.

Real processes, a warm-up, interleaved runs, medians, and one JSON object as the last line.
"""
