"""`dockercomms.protocol.manifest` by its earlier name."""

from dockercomms.protocol.manifest import Bundle, ManifestBuilder, Message, Receipt

__all__ = ["Bundle", "ManifestBuilder", "Message", "Receipt"]
