"""What is told of containers, images and this machine: documents, trees of kernel objects, usage, the doctor's findings."""
