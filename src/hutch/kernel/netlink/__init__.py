"""Netlink: how the kernel's networking is told and asked (Documentation/userspace-api/netlink/)."""
