"""The OCI runtime specification 1.3 as types, and the decoder that checks them. Pure."""
