"""What can be set, where it is set, and what is wrong with it.

``settings`` holds the values as the rest of the program sees them, ``load`` makes them from a
file, the environment and flags. Nothing here opens a connection or starts anything.
"""
