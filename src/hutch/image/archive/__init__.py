"""Images and root file systems in files: read from them, and written into them."""
