"""The user's nouns: containers, the commands in them, their files, and what runs now."""
