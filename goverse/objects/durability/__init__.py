"""How declared state becomes durable: journals of objects, group commit, fences of shards.

Knows the interface of a store and nothing of turns: an activation notes what its turns changed
and waits; what it does with a lost journal is its own affair.
"""
