"""Root file systems: what a container's files come from, whatever their form, as views that the runtime can mount."""
