"""Layers: read from archives, unpacked or indexed, compared, packed again, and looked into before they are mounted."""
