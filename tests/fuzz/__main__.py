"""The whole campaign: ``cd tests && python -m fuzz [inputs] [seed]``. Prints the counts; fails at the first input that ends wrongly."""

from __future__ import annotations

import sys
import time

from fuzz.campaign import run, table

inputs = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
began = time.perf_counter()
sys.stdout.write(f"{table(run(seed=seed, inputs=inputs))}\n")
sys.stdout.write(f"seed {seed}, {time.perf_counter() - began:.0f} s, no connection opened, nothing but values and our errors\n")
