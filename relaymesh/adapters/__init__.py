"""Floor 5, the adapters: the only sockets, files and clocks."""
