"""The store: where it lies, blobs by their digests, names of images, and leases on what is about to be needed."""
