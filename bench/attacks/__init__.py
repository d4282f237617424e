"""Attacks on the edge, each beside a well-behaved client: `python -m bench.attacks` prints the table."""
