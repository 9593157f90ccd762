"""RelayMesh: an open market for AI inference that nobody owns."""
