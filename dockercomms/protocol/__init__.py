"""The wire format of messages, receipts and their tags: SPEC.md sections 1 to 5."""
