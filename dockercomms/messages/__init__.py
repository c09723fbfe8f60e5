"""Messages and receipts: sent, received, verified, answered."""
