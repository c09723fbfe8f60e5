"""Sending, receiving, verifying and answering messages."""
