"""A scoring job as a process of its own: to be killed, and to be started by torchrun.

Arguments: pool, folder of parts ("-": none), file for the result, seconds to sleep a batch.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from memory_feed import method

from medssl.core.collectives import rank
from medssl.data.prepare import PrepareConfig, prepare
from medssl.engine import scoring
from medssl.engine.distributed import first, processes
from medssl.pool.pool import Pool

if __name__ == "__main__":
    pool, folder, out, pause = sys.argv[1:]
    scoring.CHUNK = 32
    parts = None if folder == "-" else Path(folder)
    model = method("rotation", "resnet", {"depth": 10, "width": 8, "stem": 2})
    model.encoder.register_forward_hook(lambda *_: time.sleep(float(pause)))
    with processes():
        data = first(lambda: prepare(Pool.open(Path(pool)), PrepareConfig(shape=(16, 16))))
        cpu = torch.device("cpu")
        losses = scoring.pretext_losses(model, data, cpu, 0, parts)
        features = scoring.embed(model.encoder, data, cpu, parts)
        np.savez(f"{out}.{rank()}.npz", losses=losses, features=features)
