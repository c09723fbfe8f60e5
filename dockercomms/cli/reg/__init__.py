"""`reg`: the verbs for a registry, or a layout, without messages."""
