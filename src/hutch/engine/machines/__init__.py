"""Containers in virtual machines: the machine, its channel, its interfaces, its cgroup, its snapshots."""
