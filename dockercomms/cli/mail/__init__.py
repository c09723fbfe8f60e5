"""The verbs for messages and receipts."""
