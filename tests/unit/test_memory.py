"""How exhausted memory is said."""

import pytest
import torch

from hoptm_plugin.core.errors import HopTMError, OutOfMemoryError
from hoptm_plugin.runtime.memory import memory_named

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 3.00 GiB is "
    "free. Including non-PyTorch memory, this process has 70.00 GiB memory in use."
)


def too_much():
    torch.empty(2**60, dtype=torch.uint8)


def raising(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        (too_much, r"^memory is exhausted while distilling \(tried to allocate \d+ bytes\); set a=b$"),
        (raising(MemoryError()), r"^memory is exhausted while distilling \(MemoryError\); set a=b$"),
        (raising(torch.OutOfMemoryError(CUDA)),
         r"^the GPU's memory is exhausted while distilling \(tried to allocate 20.00 GiB\); set a=b$"),
        (raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
         r"^the GPU's memory is exhausted while distilling \(RuntimeError\); set a=b$"),
    ],
    ids=["CPU", "Python", "CUDA", "cuBLAS"],
)  # fmt: skip
def test_memory(fail, says):
    with pytest.raises(OutOfMemoryError, match=says) as caught, memory_named("distilling", "set a=b"):
        fail()
    assert isinstance(caught.value, HopTMError)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("x"), KeyboardInterrupt()])
def test_other_errors_go_through(error):
    with pytest.raises(type(error)) as caught, memory_named("distilling", "set a=b"):
        raise error
    assert caught.value is error
