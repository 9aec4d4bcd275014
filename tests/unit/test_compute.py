"""Decisions on how to compute: made from sizes alone, so that they are the same on every day."""

import os
import stat
import sys

import pytest
import torch

from hoptm_plugin.commands.assembly import resolve_device
from hoptm_plugin.commands.environment import COMPILED_CODE, prepare
from hoptm_plugin.commands.settings import Runtime
from hoptm_plugin.core import compute
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.networks import ConvNet

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_compiling_pays_on_cuda_and_for_long_work_on_the_cpu(monkeypatch):
    monkeypatch.setattr(compute, "can_compile", lambda device: True)
    assert compute.worth_compiling(CUDA, 1)
    assert not compute.worth_compiling(CPU, compute.WORTH_COMPILING * 0.99)
    assert compute.worth_compiling(CPU, compute.WORTH_COMPILING)
    monkeypatch.setattr(compute, "can_compile", lambda device: False)
    assert not compute.worth_compiling(CUDA, 1e20)
    assert not compute.worth_compiling(CPU, 1e20)


def test_without_a_compiler_auto_goes_without_and_true_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not compute.can_compile(CPU)
    assert not compute.worth_compiling(CPU, 1e20)
    resolve_device(Runtime(device="cpu"))
    with pytest.raises(ConfigurationError, match=r"runtime\.compile: needs a C\+\+ compiler.*use false or auto"):
        resolve_device(Runtime(device="cpu", compile=True))


def test_operations_of_a_forward_pass_are_those_counted_by_hand():
    """Multiplications and additions of convolutions and the linear layer; norms and pooling do not count."""
    with torch.device("meta"):
        module = ConvNet(depth=2, width=8).build((3, 16, 16), 5)
    by_hand = 2 * (16 * 16 * 8 * 3 * 9 + 8 * 8 * 8 * 8 * 9 + 8 * 4 * 4 * 5)
    assert compute.forward_operations(module, (3, 16, 16)) == by_hand


def test_a_network_with_running_statistics_is_counted_as_well():
    with torch.device("meta"):
        module = ConvNet(depth=2, width=8, norm="batch").build((1, 8, 8), 5)
    assert compute.forward_operations(module, (1, 8, 8)) > 0


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


def test_the_allocator_is_left_alone_where_it_is_not_glibc_s(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(compute.ctypes, "CDLL", None)  # a call would raise
    compute.keep_freed_memory()


@pytest.mark.parametrize(("text", "bytes_"), [("2GiB", 2**31), ("512 MiB", 2**29), (0, 0), ("1.5GB", 1_500_000_000)])
def test_a_memory_budget_is_given_in_words(text, bytes_):
    assert int(Runtime(memory_budget=text).memory_budget) == bytes_


def test_a_compiled_function_has_code_for_each_shape_and_none_for_shapes_in_general():
    """Code that depended on the shapes seen before would give a resumed run other bits."""
    step = compute.compile_step(lambda x: (x * 2).sum(), CPU)
    for size in (3, 4, 5, 3):
        assert float(step(torch.ones(size))) == 2 * size
    assert torch._dynamo.config.recompile_limit >= 64
