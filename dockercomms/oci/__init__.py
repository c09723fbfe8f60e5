"""Clients for OCI registries and image layouts; this package knows no messages.

Import from the modules: `dockercomms.oci.client`, `.layout`, `.memory`, `.reference`, `.model`.
"""
