"""Who signed what: statements, envelopes, bundles, keys and the policy that gives them names."""
