"""The threads of a forward pass: every task of a phase once, and no phase before the one before it has ended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_cpu import _core


@settings(max_examples=60, deadline=None)
@given(
    threads=st.integers(1, 7),  # more than there are processors, too: then some sleep
    num_tasks=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    num_jobs=st.integers(1, 20),
    max_threads=st.integers(0, 7),
)
def test_each_task_runs_once_in_its_phase(threads: int, num_tasks: list[int], num_jobs: int, max_threads: int) -> None:
    runs, num_early = _core.run_phases(threads, num_tasks, num_jobs, max_threads)
    np.testing.assert_array_equal(runs, np.full(sum(num_tasks), num_jobs))
    assert num_early == 0


@pytest.mark.parametrize("threads", [2, 3])
def test_many_short_phases(threads: int) -> None:
    """What a small model's steps are: threads that have seen the end of a phase run ahead of those that have not."""
    num_tasks = [1, 0, 2, 0, 7, 3, 12] * 300
    runs, num_early = _core.run_phases(threads, num_tasks, 10)
    np.testing.assert_array_equal(runs, np.full(sum(num_tasks), 10))
    assert num_early == 0
