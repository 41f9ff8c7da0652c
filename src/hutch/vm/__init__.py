"""The same container in a virtual machine: kernels, initial ramdisks, machines, and the plans that make them."""
