"""Faster gradient steps: the ``precision`` and ``compile`` arguments of the algorithms, and memory allocation."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch as th

PRECISIONS = {"float32": th.float32, "bf16": th.bfloat16}
MOST_VARIANTS = 1024  # of a function, for networks of different layers; after 8, torch would silently stop compiling
LARGEST_DYNAMIC_MMAP_THRESHOLD = 32 * 2**20  # bytes, glibc's on 64-bit machines (mallopt(3))


@cache
def compiled(function: Callable, device_type: str) -> Callable:
    """
    :param function: on tensors, without side effects
    :return: the function, compiled on its first call. On CUDA it is recorded as a graph, whose results the next call
        overwrites. Cached here rather than by its users, which must stay copyable and picklable
    """
    on_cuda = device_type == "cuda"
    graph = th.compile(function, mode="reduce-overhead" if on_cuda else None)

    def call(*args: Any) -> Any:
        if on_cuda:
            th.compiler.cudagraph_mark_step_begin()
        with th._dynamo.config.patch(recompile_limit=MOST_VARIANTS, accumulated_recompile_limit=MOST_VARIANTS):
            return graph(*args)

    return call


def _twice(x: th.Tensor) -> th.Tensor:
    return 2 * x


def check_compiler(device: th.device) -> None:
    """:raises ValueError: if torch.compile does not work on the device"""
    try:
        compiled(_twice, device.type)(th.ones(2, device=device))
    except Exception as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"compile=True does not work for device={device} here ({first_line}): use compile=False, or install what "
            "torch.compile needs, which is a C++ compiler such as g++ with Python's headers on a CPU, and triton on CUDA."
        ) from error


def check_acceleration(precision: str, compile: bool, device: th.device) -> None:
    """:raises ValueError: if the precision is unknown, or if precision or compilation is not available on the device"""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown: use one of {', '.join(PRECISIONS)}.")
    available = th.amp.is_autocast_available(device.type)
    if precision == "bf16" and not (available and (device.type != "cuda" or th.cuda.is_bf16_supported())):
        raise ValueError(f"precision='bf16' is not available on device={device}: use precision='float32'.")
    if compile:
        check_compiler(device)


def keep_freed_memory() -> None:
    """
    Make glibc's malloc keep up to 64 MiB of freed memory for the next gradient step.

    malloc returns the top of the heap to the system when it exceeds twice the largest mapped block freed so far; gradients of
    large layers are then mapped again, page by page, in each gradient step. Freeing one large, untouched block is the
    documented way to raise that threshold. It has no effect on other allocators.
    """
    th.empty(LARGEST_DYNAMIC_MMAP_THRESHOLD - 2**16, dtype=th.uint8)
