"""Every test of objects runs twice: awaited, and forwarded where the catalog takes that."""

from __future__ import annotations

from goverse.objects import Catalog
from tests.support.forwarding import both_ways

way = both_ways(Catalog)
