"""Floor 0, Nostr: events, keys, filters and messages as frozen values."""
