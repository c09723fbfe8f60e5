"""The registry side: a client for OCI registries and image layouts that knows nothing of messages.

Import from the modules: `dockercomms.oci.client`, `.layout`, `.memory`, `.reference`, `.model`.
"""
