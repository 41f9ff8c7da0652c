"""Networks: what they are, who has which address, and the bridge, the pairs and the rules that make one."""
