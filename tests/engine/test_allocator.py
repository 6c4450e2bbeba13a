"""Freed buffers stay with the process: using one again costs no page faults."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from medssl.engine.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(77)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    for _ in range(4):
        buffers = [torch.zeros(6 * 2**20) for _ in range(4)]  # 24 MB each
use()
before = faults()
use()
print(faults() - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("no glibc here")
    return int(done.stdout)


def test_buffers_that_were_freed_are_used_again_without_page_faults() -> None:
    assert faults("kept") < 0.1 * faults("plain")
