"""Images by name: pulled, pushed, listed, made, removed."""
