"""Links between processes: one long-lived stream each, whose messages are batches of frames.

Here live the frames (`wire`), the link that multiplexes calls over a stream (`link` and its
parts), the pool of links to members, the carriers (TCP, loopback), and what tells links and gRPC
clients apart that come to one port (`front` and what stands behind it). Nothing here knows what
a shard, an object or a user is: who may call what is decided above, where a call is served.
"""
