"""From settings to a process: the plan, what is written into it at the start, the start itself, and commands in a container that runs."""
