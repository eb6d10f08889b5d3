"""One module per group of commands: arguments in, one question to a node, one answer out."""
