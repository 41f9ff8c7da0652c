"""The container: made, started, run, forked, committed."""
