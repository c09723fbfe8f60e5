"""How a payload becomes layers and comes back: chunks, layers, transfers, payloads."""
