"""What a user asks for: settings, their syntax, their check, and the OCI configuration that they mean.

Nothing here knows of a container that exists.
"""
