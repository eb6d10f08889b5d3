"""The admin service of a node. `operations` says what is answered, the others say to whom."""
