"""The bundled relay: NIP-01 in full, durable before it answers, in one process."""
