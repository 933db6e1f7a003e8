"""Benches, each run from a checkout by its name: `python -m bench.fleet`."""
