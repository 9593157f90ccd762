"""Floor 2, the market: pure functions over values that decide who serves whom and at what price."""
