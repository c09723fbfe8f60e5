"""Verification of signatures: statements, bundles, keys, certificates and the trust policy."""
