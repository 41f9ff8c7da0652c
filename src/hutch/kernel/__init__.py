"""What Linux offers, without policy: typed system calls, readers of /proc, and one probe of features."""
