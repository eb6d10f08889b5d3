"""A small asyncio kit. Knows nothing of goverse: no identities, no settings, no metrics."""
