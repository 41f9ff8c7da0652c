"""The operations of an OCI runtime on its containers: create, start, exec, kill, delete and the rest (runtime.md)."""
