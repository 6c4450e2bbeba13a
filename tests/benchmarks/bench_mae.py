"""Training steps of masked autoencoders: medssl beside LightlySSL, facebookresearch/mae and MONAI, in turns.

A step is forward, backward and optimiser on views that are there already; the loader is no part of it. Everyone has
the same encoder, decoder, mask ratio, batch, precision (autocast) and fused AdamW. Each system runs in a process of its
own, one at a time, so that memory is its own and nobody profits from another's settings; steps are taken in turns,
medians reported, and ratios are medians of those within a turn. On a CPU medssl is shown a second time, as torchrun
starts it: one process a thread, which share the batch. Peers that are not there are skipped with the reason:

    pip install --no-deps --target PEERS lightly lightly-utils einops
    git clone https://github.com/facebookresearch/mae MAE          (CC-BY-NC: to be timed, not to be copied)
    PYTHONPATH=PEERS MAE_PATH=MAE python tests/benchmarks/bench_mae.py --model S16 Ti8 --precision fp32 bf16
    python tests/benchmarks/bench_mae.py --device cuda --precision bf16 --model B16 L16 3d-B96 --compile

On a machine that does other work beside, ``--threads 1 --clock cpu`` counts processor time instead.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import socket
import sys
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from mae_systems import MODELS, RANKS, SYSTEMS, Model, matmul_peak


def main() -> None:
    """Print one table of systems a model and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["S16", "Ti8"])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="medssl among them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="instead of the model's own")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--compile", action="store_true", help="medssl with loop.compile")
    parser.add_argument("--mae-path", default=os.environ.get("MAE_PATH", ""), help="a clone of facebookresearch/mae")
    args = parser.parse_args()
    if args.threads == 1 or args.device != "cpu" or args.clock == "cpu":
        args.systems = [system for system in args.systems if system != RANKS]
    print(f"{_machine(args)}\n\n    {' '.join(['python', *sys.argv])}\n")
    for name in args.model:
        for precision in args.precision:
            print("\n".join(_table(name, precision, args)), flush=True)


def _machine(args: argparse.Namespace) -> str:
    import timm
    import torch

    if args.device.startswith("cuda"):
        what = torch.cuda.get_device_name(args.device)
    else:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        what = f"{len(names)} × {names[0].partition(': ')[2]}, {args.threads} threads, load {os.getloadavg()[0]:.1f}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    return f"{what}; {versions}; clock: {args.clock}, median of {args.repeats}"


def _table(name: str, precision: str, args: argparse.Namespace) -> list[str]:
    """Measure every system on one model, step by step in turns; return a markdown table."""
    batch = args.batch or MODELS[name].batch
    runs = {system: _Run(system, name, batch, precision, args) for system in args.systems}
    peak = _Run("peak", name, batch, precision, args)
    alive = {system: run for system, run in runs.items() if not run.reason}
    for _ in range(args.repeats):
        for run in (peak, *alive.values()):
            run.step()
    gflops = 1e-9 / min(peak.seconds)  # of one operation: the best that the machine did in this run
    rows = [f"**{name}**, batch {batch}, {precision}, matmul peak {gflops:,.0f} GFLOP/s", ""]
    rows += ["| system | images/s | of medssl | share of peak | peak memory MB |", "|---|---|---|---|---|"]
    ours = runs["medssl"].seconds
    for system, run in runs.items():
        if run.reason:
            rows.append(f"| {system} | skipped: {run.reason} | | | |")
            continue
        rate = batch / median(run.seconds)
        share = rate * MODELS[name].flops() * 1e-9 / gflops
        ratio = median(a / b for a, b in zip(ours, run.seconds, strict=True)) if ours else float("nan")
        rows.append(f"| {system} | {rate:,.1f} | {ratio:.2f} | {share:.0%} | {run.memory():,.0f} |")
    for run in (peak, *runs.values()):
        run.close()
    return [*rows, ""]


class _Run:
    """One system in processes of its own, taking a step when told to."""

    def __init__(self, system: str, name: str, batch: int, precision: str, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        world = args.threads if system == RANKS else 1
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world)}
        self._pipes, self._processes = [], []
        for rank in range(world):
            here, there = context.Pipe()
            told = (there, system, name, batch // world, precision, args, {**group, "RANK": str(rank)})
            process = context.Process(target=_serve, args=told, daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)
        self.seconds: list[float] = []
        self.reason = str(max(self._answers(), key=len))  # of not running; empty where it runs

    def step(self) -> None:
        """Take one timed step, which is over when the last process has taken it."""
        self.seconds.append(max(map(float, self._asked("step"))))

    def memory(self) -> float:
        """Return the most megabytes in use so far, over those before the model was made."""
        return sum(map(float, self._asked("memory")))

    def close(self) -> None:
        """End the processes."""
        for here, process in zip(self._pipes, self._processes, strict=True):
            if process.is_alive():
                here.send("close")
        for process in self._processes:
            process.join()

    def _asked(self, question: str) -> list[Any]:
        for here in self._pipes:
            here.send(question)
        return self._answers()

    def _answers(self) -> list[Any]:
        try:
            return [here.recv() for here in self._pipes]
        except EOFError:
            return ["its process died (out of memory?)"]


def _serve(
    there: Connection,
    system: str,
    name: str,
    batch: int,
    precision: str,
    args: argparse.Namespace,
    group: dict[str, str],
) -> None:
    """Make a system, warm it up, and answer until told to close."""
    import torch

    from medssl.engine.distributed import processes

    warnings.simplefilter("ignore")  # of peers
    os.environ |= group
    torch.set_num_threads(max(1, args.threads // int(group["WORLD_SIZE"])))
    with processes():
        _answer(there, system, name, batch, precision, args)


def _answer(there: Connection, system: str, name: str, batch: int, precision: str, args: argparse.Namespace) -> None:
    import torch

    device = torch.device(args.device)
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    try:
        make = matmul_peak if system == "peak" else SYSTEMS[system]
        step, before = _prepared(make, MODELS[name], batch, precision, device, args)
        for _ in range(args.warmup):
            step()
    except Exception as error:  # a peer that lacks, or cannot, is a row of the table
        if os.environ.get("VERBOSE"):
            traceback.print_exc()
        there.send(f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else 'no message'}")
        return
    there.send("")
    while (asked := there.recv()) != "close":
        if asked == "memory":
            there.send(_used(device) - before)
            continue
        synchronise()
        start = clock()
        count = step()
        synchronise()
        there.send((clock() - start) / (count if system == "peak" else 1))


def _prepared(make: Any, model: Model, batch: int, precision: str, device: Any, args: argparse.Namespace) -> Any:
    """Return a system's step and the megabytes in use when its code was loaded but its model was not made."""
    import torch

    torch.manual_seed(0)
    maker = make(args)  # imports
    before = _used(device)
    images = torch.rand(batch, model.channels, *model.shape, device=device)
    return maker(model, images, precision, device), before


def _used(device: Any) -> float:
    """Return the highest use of memory so far, in MB."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
