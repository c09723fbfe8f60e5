"""The messages of a repository that are addressed to me: found, read, listed."""
