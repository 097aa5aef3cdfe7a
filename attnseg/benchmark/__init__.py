"""Speed and memory, ours beside the peers' in one run (`launch/benchmark.py`)."""
