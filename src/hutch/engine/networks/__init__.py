"""Networks: their definitions, who is on them, how a container joins one, and what of the kernel's is theirs."""
