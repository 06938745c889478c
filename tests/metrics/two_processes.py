"""Run as a script: one of two processes, which has some images or none, and prints what both find together."""

import json
import sys

import torch
from torch import distributed

from tests.metrics.test_raters import METRICS, N, data, feed


def main(rank, store):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {}
    for name, (make, _) in METRICS.items():
        everything = feed(make(), [range(N)] if rank == 0 else [], *data())
        overlapping = feed(make(), [range(5) if rank == 0 else range(3, N)], *data())
        found[name] = [everything.compute().item(), overlapping.compute().item(), len(overlapping.per_image())]
    sys.stdout.write(json.dumps(found) + "\n")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
