"""The registry interface over HTTP."""
