"""The world: stores, sockets, the clock."""
