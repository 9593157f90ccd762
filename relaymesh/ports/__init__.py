"""Floor 4, the ports: what a role needs from the world, as small protocols with memory versions."""
