"""Benchmarks of the fast paths, run by `lengthwise bench`."""
