"""The executor (C) and its launcher: a plan goes in, a running container comes out."""
