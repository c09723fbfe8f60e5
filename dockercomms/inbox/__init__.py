"""The inbox of a recipient: messages found in a repository, read and listed."""
