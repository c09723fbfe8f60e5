"""Verbs for this machine only: keys, trust, config, completion, version."""
