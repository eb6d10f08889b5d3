"""The coordinator on etcd 3.4 and newer, over the stubs of `aetcd.rpc`.

::

    client     the Coordinator: operations, their deadlines and retries
    watch      one watch: list, follow, notice silence, list again
    lease      a lease: what the event loop sees of it
    keeper     a lease: the thread that renews it
    renewal    a lease: the thread's way to etcd
    endpoints  which member is used, and the next one when it is lost
    connection one connection to one member, and whether that member still answers
    doors      channels: TLS, options; asynchronous for the loop, blocking for the threads
    failures   what an error of gRPC means
    lineage    whether this is still the history that was seen before
    codec      values of the API from and to messages of etcd

No error of gRPC leaves this package.
"""

from goverse.coordination.etcd.client import EtcdCoordinator

__all__ = ["EtcdCoordinator"]
