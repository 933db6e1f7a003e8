"""The HTTP API: thin, parses, calls a service, answers."""
