"""Freed buffers stay with the process: using them again costs no page faults."""

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from medssl.engine.allocator import keep_freed_memory
if not keep_freed_memory():
    sys.exit(77)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    for _ in range(4):
        buffers = [torch.zeros(6 * 2**20) for _ in range(4)]  # 24 MB each; without the call given back, most often
        del buffers
use()
before = faults()
use()
print(faults() - before)
"""


def test_buffers_that_were_freed_are_used_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("no glibc here")
    assert int(done.stdout) < 6144  # the pages of one buffer
