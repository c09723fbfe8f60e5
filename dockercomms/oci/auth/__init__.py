"""Logins of docker and podman, and the tokens that registries give for them."""
