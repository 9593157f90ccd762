"""Floor 1, the protocol: what RelayMesh parties say to each other, as frozen values, and the codec for them."""
