"""Processes of Hutch's own beside the executor: Pythons that run one module of it, for one task or as long as they are needed."""
