"""Links between processes: one long-lived stream each, whose messages are batches of frames.

Here live the frames (`wire`), the link that multiplexes calls over a stream (`link` and its
parts), the pool of links to members, and the carriers (gRPC, loopback). Nothing here knows what
a shard, an object or a user is: who may call what is decided above, where a call is served.
"""
