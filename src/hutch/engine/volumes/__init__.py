"""Volumes: directories with a name that outlive their containers."""
