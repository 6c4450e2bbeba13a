"""Runs a function on several real processes that talk over gloo, as `torchrun` would start them."""

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from medssl.engine.distributed import processes

LIMIT_S = 90
PRELOADED = ["medssl.engine.loop", "memory_feed", "timm.models.vision_transformer"]


def on_ranks(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what ``work(*args)`` returns on each rank; ``work`` is a function of a module, its results picklable."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results: SimpleQueue[Any] = context.SimpleQueue()
    started = [context.Process(target=_main, args=(r, world, port, results, work, args)) for r in range(world)]
    for process in started:
        process.start()
    found: dict[int, Any] = {}
    until = time.monotonic() + LIMIT_S
    try:
        while len(found) < world:
            assert time.monotonic() < until, f"no answer; exit codes {[p.exitcode for p in started]}"
            if results.empty():
                assert any(p.is_alive() for p in started), f"died; exit codes {[p.exitcode for p in started]}"
                time.sleep(0.02)
                continue
            rank, error, result = results.get()
            assert not error, f"rank {rank}: {error}"
            found[rank] = result
    finally:
        for process in started:
            process.join(5 if len(found) == world else 0)
            process.kill()
    return [found[rank] for rank in range(world)]


def _main(rank: int, world: int, port: int, results: Any, work: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        with processes():
            results.put((rank, None, work(*args)))
    except BaseException:
        results.put((rank, traceback.format_exc(), None))
