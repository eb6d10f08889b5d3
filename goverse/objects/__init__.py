"""Application objects: their definition, and the catalog that runs them on a node.

What may live here: the base class and its checks, references, turns, activations. What may not:
who owns a shard (`goverse.cluster`), how a call gets here (`goverse.transport`).
"""

from goverse.objects.access import create, delete, get, interface_of, options
from goverse.objects.activation import ObjectObserver
from goverse.objects.catalog import Catalog, NodeFacts
from goverse.objects.context import CallDefaults, Context, context
from goverse.objects.definition import Object, ObjectType, method
from goverse.objects.loading import ModuleLoadError, load_entry_points, load_modules
from goverse.objects.reference import Reference, reference
from goverse.objects.registry import Registry
from goverse.objects.shards import Moves
from goverse.objects.snapshots import CatalogSnapshot, ObjectSnapshot, ShardSnapshot

__all__ = [
    "CallDefaults",
    "Catalog",
    "CatalogSnapshot",
    "Context",
    "ModuleLoadError",
    "Moves",
    "NodeFacts",
    "Object",
    "ObjectObserver",
    "ObjectSnapshot",
    "ObjectType",
    "Reference",
    "Registry",
    "ShardSnapshot",
    "context",
    "create",
    "delete",
    "get",
    "interface_of",
    "load_entry_points",
    "load_modules",
    "method",
    "options",
    "reference",
]
