"""`hutch-oci`: an OCI runtime's command line, as engines call it."""
