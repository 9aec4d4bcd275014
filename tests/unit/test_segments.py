"""Segments announced and read ahead."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from hoptm_plugin.core.asking import alone
from hoptm_plugin.core.errors import FileFormatError
from hoptm_plugin.core.interfaces import SegmentSampler
from hoptm_plugin.trajectory.segments import PrefetchedSegments


class Trajectories:
    """Row values tell expert and epoch; keeps who read what."""

    def __init__(self):
        self.reads = []

    def __len__(self):
        return 3

    def segment(self, expert, first, last):
        self.reads.append((expert, first, last, threading.current_thread() is threading.main_thread()))
        if expert == 2:
            raise FileFormatError("expert 2 is damaged")
        return torch.tensor([[100.0 * expert + epoch] for epoch in range(first, last + 1)])


def test_an_announced_segment_is_read_once_by_another_thread():
    source = Trajectories()
    segments = PrefetchedSegments(source)
    segments.announce(1, 4, 6)
    assert segments.segment(1, 4, 6).flatten().tolist() == [104, 105, 106]
    assert source.reads == [(1, 4, 6, False)]
    assert len(segments) == 3


def test_another_segment_than_the_announced_one_is_read_afresh():
    source = Trajectories()
    segments = PrefetchedSegments(source)
    segments.announce(1, 4, 6)
    assert segments.segment(0, 4, 6).flatten().tolist() == [4, 5, 6]
    assert segments.segment(1, 4, 6).flatten().tolist() == [104, 105, 106]  # no longer announced


def test_what_cannot_be_read_is_said_when_it_is_asked_for():
    segments = PrefetchedSegments(Trajectories())
    segments.announce(2, 0, 1)
    with pytest.raises(FileFormatError, match="damaged"):
        segments.segment(2, 0, 1)


class Continuous(Trajectories):
    """The same at any time."""

    def at(self, expert, times):
        self.reads.append((expert, *times, threading.current_thread() is threading.main_thread()))
        return torch.tensor([[100.0 * expert + time] for time in times])


def test_segments_of_continuous_trajectories_may_start_between_epochs():
    source = Continuous()
    segments = PrefetchedSegments(source)
    segments.announce(1, 0.1, 0.1 + 3)
    assert len(segments.segment(1, 0.1, 0.1 + 3)) == 4
    assert source.reads == [(1, 0.1, 1.1, 2.1, 3.1, False)]
    assert segments.segment(0, 2, 3).flatten().tolist() == [2, 3]


def test_others_start_at_epochs_only():
    with pytest.raises(ValueError, match=r"no parameters at time 0\.5, between epochs"):
        PrefetchedSegments(Trajectories()).segment(0, 0.5, 2.5)
    assert PrefetchedSegments(Trajectories()).segment(0, 1.0, 2.0).flatten().tolist() == [1, 2]


class Counting(SegmentSampler):
    """A sampler whose draws depend on how often it was asked."""

    def __init__(self, remembers):
        self.remembers, self.asked = remembers, 0

    def draw(self, experts, bounds, step, seeds):
        self.asked += 1
        return 0, step % 2

    def last_start_epoch(self):
        return 1

    def state_dict(self):
        return {"asked": self.asked} if self.remembers else {}


@pytest.mark.parametrize(("remembers", "asked"), [(True, 1), (False, 2)])
def test_a_sampler_with_a_memory_is_asked_once_per_iteration(make_task, remembers, asked):
    from hoptm_plugin.core.interfaces import methods

    method = methods.build({
        "name": "trajectory_matching", "student_steps": 2, "expert_epochs": 1, "student_batch": 2, "step_size": 0.1,
        "matchers": {"endpoint": {"name": "endpoint"}}, "sampler": {"name": "uniform", "max_start_epoch": 2},
        "labels": {"name": "hard"}, "initial_images": {"name": "real"},
    })  # fmt: skip
    method.sampler = Counting(remembers)
    synthetic = method.setup(make_task())
    for step in range(3):
        alone(method.observe(synthetic, step))
    assert method.sampler.asked == 3 * asked


THREADS = """
import os, time, torch
from hoptm_plugin.trajectory.segments import PrefetchedSegments

class Trajectories:
    def __len__(self):
        return 1

    def segment(self, expert, first, last):
        return torch.ones(4, 1 << 20).clone() + 1

def count():  # a thread that was joined stands in /proc for a moment longer
    counts = []
    for _ in range(20):
        counts.append(len(os.listdir("/proc/self/task")))
        time.sleep(0.01)
    return min(counts)

torch.set_num_threads(2)
torch.ones(1 << 22).clone() + 1
segments = PrefetchedSegments(Trajectories())
before = count()
for epoch in range(3):
    segments.announce(0, epoch, epoch + 1)
    segments.segment(0, epoch, epoch + 1)
print(count() - before, torch.get_num_threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads of a process are counted in /proc")
def test_reading_begins_no_team_of_threads_beside_that_which_computes():
    """More threads than cores would have libgomp let all of them sleep at every barrier."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "2"]
