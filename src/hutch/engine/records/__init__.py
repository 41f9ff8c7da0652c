"""What is kept of containers: their records, the facts in these, and how one that runs is reached.

It knows `spec`.
"""
