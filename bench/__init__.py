"""Benchmarks, one command each: `python -m bench.NAME --json`. They measure, they are no tests."""
