"""Copying, pulling, inspecting and selecting manifests with their content."""
