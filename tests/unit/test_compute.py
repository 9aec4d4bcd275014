"""Decisions on how to compute: made from sizes alone, so that they are the same on every day."""

import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.networks import ConvNet
from hoptm_plugin.runtime import compute
from hoptm_plugin.runtime.device import computing, resolve
from hoptm_plugin.runtime.environment import COMPILED_CODE, prepare
from hoptm_plugin.settings import Runtime


def raising(error):
    def function(*arguments):
        raise error

    return function


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_compiling_pays_on_cuda_and_for_long_work_on_the_cpu(monkeypatch):
    monkeypatch.setattr(compute, "can_compile", lambda device: True)
    assert compute.worth_compiling(CUDA, 1, 1)
    large, passes = 1e9, compute.WORTH_COMPILING / 3e9
    assert compute.worth_compiling(CPU, passes, large)
    assert not compute.worth_compiling(CPU, passes * 0.99, large)
    assert not compute.worth_compiling(CPU, passes, 1)
    assert compute.worth_compiling(CPU, 1e6, 1)  # a million passes take minutes through any network
    assert not compute.worth_compiling(CUDA, 0, large)  # a method that trains nothing
    assert not compute.worth_compiling(CUDA, 1e9, 0)  # operations that could not be counted
    monkeypatch.setattr(compute, "can_compile", lambda device: False)
    assert not compute.worth_compiling(CUDA, 1e9, large)


def test_without_a_compiler_auto_goes_without_and_true_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not compute.can_compile(CPU)
    compiler = tmp_path / "own-compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", "own-compiler")
    assert compute.can_compile(CPU)
    monkeypatch.setattr(compute.sysconfig, "get_path", lambda name: str(tmp_path))  # no Python.h in it
    assert not compute.can_compile(CPU)
    assert not compute.worth_compiling(CPU, 1e9, 1e9)
    resolve("cpu", "float32", False)
    with pytest.raises(ConfigurationError, match=r"runtime\.compile: needs a C\+\+ compiler.*use false or auto"):
        resolve("cpu", "float32", True)


def test_operations_of_a_forward_pass_are_those_counted_by_hand():
    """Multiplications and additions of convolutions and the linear layer; norms and pooling do not count."""
    by_hand = 2 * (16 * 16 * 8 * 3 * 9 + 8 * 8 * 8 * 8 * 9 + 8 * 4 * 4 * 5)
    assert compute.forward_operations(lambda: ConvNet(depth=2, width=8).build((3, 16, 16), 5), (3, 16, 16)) == by_hand


def test_a_network_with_running_statistics_is_counted_as_well():
    builder = ConvNet(depth=2, width=8, norm="batch")
    assert compute.forward_operations(lambda: builder.build((1, 8, 8), 5), (1, 8, 8)) > 0


class Curious(nn.Module):
    """Looks at numbers, which are not there on the meta device."""

    def forward(self, images):
        return images * 2 if float(images.sum()) > 0 else images


@pytest.mark.parametrize("build", [Curious, lambda: ConvNet(depth=9).build((3, 8, 8), 5)])
def test_what_cannot_be_counted_counts_as_nothing(build):
    assert compute.forward_operations(build, (3, 8, 8)) == 0


def test_a_network_that_cannot_be_compiled_is_said_in_one_line():
    step = compute.compile_step(Curious(), CPU)
    with pytest.raises(ConfigurationError, match=r"runtime\.compile: this network cannot be compiled .*compile=false"):
        step(torch.ones(3))


def test_graph_bytes_count_what_is_saved_once():
    x = torch.ones(1000, requires_grad=True)
    assert compute.graph_bytes(lambda: x.square()) == 4000  # x itself
    assert compute.graph_bytes(lambda: x.exp().exp()) == 8000  # two results
    assert compute.graph_bytes(lambda: x * x) == 4000  # the same memory twice
    assert compute.graph_bytes(lambda: x.view(10, 100).square()) == 4000
    assert compute.graph_bytes(lambda: x + 1) == 0


def test_compiled_code_lies_in_the_user_s_own_folder_and_no_one_else_s(monkeypatch, tmp_path):
    """What is cached there is executed."""
    monkeypatch.delenv(COMPILED_CODE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare()
    folder = tmp_path / "cache" / "hoptm-bench" / "compiled"
    assert os.environ[COMPILED_CODE] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.setenv(COMPILED_CODE, "elsewhere")
    prepare()
    assert os.environ[COMPILED_CODE] == "elsewhere"


def test_a_home_that_cannot_be_written_to_stops_nothing(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.delenv(COMPILED_CODE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    prepare()
    assert COMPILED_CODE not in os.environ
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", raising(RuntimeError("no home")))
    prepare()
    assert COMPILED_CODE not in os.environ


def test_a_folder_that_others_may_write_to_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "hoptm-bench").mkdir()
    (tmp_path / "hoptm-bench").chmod(0o777)
    monkeypatch.delenv(COMPILED_CODE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prepare()
    assert COMPILED_CODE not in os.environ


def test_the_allocator_is_left_alone_where_it_is_not_glibc_s(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(compute.ctypes, "CDLL", None)  # a call would raise
    compute.keep_freed_memory(CPU, lambda: 0)


@pytest.mark.parametrize(("step_bytes", "mmaps"), [(0, 0), (compute.KEEP_UP_TO, 0), (compute.KEEP_UP_TO + 1, 65536)])
def test_large_tensors_are_returned_where_keeping_them_would_double_the_peak(step_bytes, mmaps, monkeypatch):
    calls = []

    class Library:
        gnu_get_libc_version = None

        def mallopt(self, option, value):
            calls.append((option, value))

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(compute.ctypes, "CDLL", lambda name: Library())
    compute.keep_freed_memory(CPU, lambda: step_bytes)
    assert (-4, mmaps) in calls
    compute.keep_freed_memory(CUDA, raising(AssertionError("asked for what does not matter there")))


@pytest.mark.parametrize(("text", "bytes_"), [("2GiB", 2**31), ("512 MiB", 2**29), (0, 0), ("1.5GB", 1_500_000_000)])
def test_a_memory_budget_is_given_in_words(text, bytes_):
    assert int(Runtime(memory_budget=text).memory_budget) == bytes_


@pytest.mark.slow
def test_a_compiled_function_has_code_for_each_shape_and_none_for_shapes_in_general():
    """Code that depended on the shapes seen before would give a resumed run other bits."""
    step = compute.compile_step(lambda x: (x * 2).sum(), CPU)
    for size in (3, 4, 5, 3):
        assert float(step(torch.ones(size))) == 2 * size
    assert torch._dynamo.config.recompile_limit >= 64


def test_torch_is_left_as_it_was_found():
    """Threads, TF32 and determinism are those of the run only for as long as it lasts, also where it fails."""
    backends = torch.backends

    def found():
        return (torch.get_num_threads(), backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32,
                backends.cudnn.deterministic, backends.cudnn.benchmark)  # fmt: skip

    before = found()
    with computing(CPU, "float32", before[0] + 1):
        assert found() == (before[0] + 1, False, False, True, False)
    assert found() == before

    def fails():
        with computing(CPU, "float32", before[0] + 1):
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fails()
    assert found() == before


@pytest.mark.parametrize("asked", [
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: torch.set_float32_matmul_precision("high"),
    lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
], ids=["medium", "high", "matmul", "everything", "conv"])  # fmt: skip
def test_full_precision_is_that_of_the_run_whatever_was_asked_of_torch(asked):
    backends = torch.backends
    places = [backends, backends.cudnn, backends.mkldnn, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn,
              backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]  # fmt: skip

    def found():
        return [place.fp32_precision for place in places]

    first = found()
    try:
        asked()
        before = found()
        with computing(CPU, "float32", None):
            assert set(found()) == {"none"}
        assert found() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        for place, value in zip(places, first, strict=True):
            place.fp32_precision = value


@pytest.mark.parametrize(
    ("device", "shape", "operations", "stacked"),
    [
        ("cuda", (3, 112, 112), 1e10, True),
        ("cpu", (1, 8, 8), 2e5, True),
        ("cpu", (3, 16, 16), 9e6, True),
        ("cpu", (3, 32, 32), 2e5, False),
        ("cpu", (3, 16, 16), 2e7, False),
        ("cpu", (3, 16, 16), 0, False),
    ],
)
def test_students_of_several_runs_are_stacked_where_that_pays(device, shape, operations, stacked):
    """A network whose operations nobody could count is not."""
    assert compute.worth_stacking(torch.device(device), shape, operations) is stacked
