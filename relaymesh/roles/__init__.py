"""Floor 6, the roles: a machine joined to ports by one short loop."""
