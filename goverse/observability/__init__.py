"""What operators see: metrics, logs, health. Nothing here decides anything.

``metrics`` is the only place that knows prometheus_client and the only place where a metric has
a name; ``families`` counts without it. ``ops_server`` answers in a thread of its own.
"""
