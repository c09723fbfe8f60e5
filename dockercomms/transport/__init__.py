"""Conversion of a payload to chunks, layers and blobs, and back."""
