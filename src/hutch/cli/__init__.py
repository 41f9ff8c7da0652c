"""The command line over the engine, with Docker's commands, flags and exit codes."""
