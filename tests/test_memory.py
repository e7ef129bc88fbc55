"""What a step on a CPU frees serves the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from inpaint.distributed.runtime import Runtime

torch.set_num_threads(1)
if sys.argv[1] == "trains":
    runtime = Runtime()


def faults(num=20, mib=48):
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num):
        torch.ones(mib * 2**18)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin) // num


faults()  # until the heap has found its shape
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told to keep what is freed")
def test_a_process_that_trains_keeps_the_memory_it_frees() -> None:
    """Counted in pages that the system hands out for each 48 MiB: all of them, or none."""
    pages = {}
    for how in ("trains", "does not"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        pages[how] = int(done.stdout.splitlines()[-1])
    assert pages["trains"] < 10
    # Else the test could not fail: with pages of 4 KiB 12,288, with huge ones a few dozen.
    assert pages["does not"] > 2 * max(pages["trains"], 10)
