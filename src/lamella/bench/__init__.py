"""The benchmark suite: ``python -m lamella.bench``, ``lamella bench``. How to read it: docs/benchmarks.md."""
