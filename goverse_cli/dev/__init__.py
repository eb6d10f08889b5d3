"""Development mode: a whole cluster from one command, gone again with it.

Everything here runs in the supervising process except `serve`, which is the child that holds
node and gate when they share a process.
"""
