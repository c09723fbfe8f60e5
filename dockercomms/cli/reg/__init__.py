"""`reg`: verbs for any registry or layout, without messages."""
