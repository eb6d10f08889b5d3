"""Finding the owner of an object, and again when it has changed."""

from goverse.routing.persistence import RouterObserver
from goverse.routing.router import Pool, Router

__all__ = ["Pool", "Router", "RouterObserver"]
