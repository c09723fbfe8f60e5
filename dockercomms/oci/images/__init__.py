"""Manifests with what they refer to: copied, pulled, inspected, selected."""
