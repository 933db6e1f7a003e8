"""One file for each noun; every route parses, calls a service and answers."""
