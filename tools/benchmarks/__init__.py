"""What ``tools/benchmark.py`` measures, how, and how it shows it."""
