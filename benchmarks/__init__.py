"""What the docs' numbers come from: each module is a command, `python -m benchmarks.NAME`, and prints what it found.

Nothing here is installed, and no test times anything.
"""
