"""How a message, a receipt and their tags are written down: SPEC.md sections 1 to 5."""
