"""The node process: hosts objects. ``app`` composes it, ``admin`` serves operators."""
