"""The runtime: a configuration and the machine's features compiled to a plan."""
