"""What a run is timed by."""

import time

import pytest
import torch

from pinn_lora.clock import by_cpu_time, seconds

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_one_thread_is_timed_by_cpu_time_so_that_waiting_is_not_counted(threads):
    threads(1)
    assert by_cpu_time(CPU)
    start = seconds(CPU)
    time.sleep(0.3)
    assert seconds(CPU) - start < 0.1
    begun, start = time.process_time(), seconds(CPU)
    while time.process_time() - begun < 0.05:
        pass
    assert seconds(CPU) - start >= 0.05


def test_several_threads_and_other_devices_are_timed_by_the_wall_clock(threads):
    assert not by_cpu_time(torch.device("cuda"))
    threads(2)
    assert not by_cpu_time(CPU)
    start = seconds(CPU)
    time.sleep(0.05)
    assert seconds(CPU) - start >= 0.05
