"""Registries: the OCI distribution-spec 1.1 and Docker's v2, over the standard library's HTTP."""
