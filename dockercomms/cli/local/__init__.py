"""The verbs that look at this machine only: keys, trust, config, completion, version."""
