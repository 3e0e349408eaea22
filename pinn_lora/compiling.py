"""Functions of tensors, compiled by TorchInductor for every shape they meet: what fuses a chain of operations into one loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor

from pinn_lora.clock import seconds

Function = Callable[..., list[Tensor]]

AGREEMENT = 1e4  # roundings of the largest entry that compiled numbers may be away

_kernels: dict[tuple, Function] = {}
_refused: set[Function] = set()  # foreign functions that stay as they are
_broken = False  # set once when nothing can be compiled here
_seconds = 0.0  # spent on compiling so far


def can_compile() -> bool:
    """Whether compiling has not failed in this process so far."""
    return not _broken


def compile_seconds() -> float:
    """Seconds that this process has spent on compiling so far, by the clock that runs are timed by."""
    return _seconds


def run(function: Function, tensors: Sequence[Tensor]) -> list[Tensor]:
    """function(*tensors), compiled for their shapes; a warning, once, and the function itself where that fails.

    Not torch.compile: it keeps at most eight shapes of a function, and its guards take longer than the short kernels.
    """
    global _broken
    key = _key(function, tensors)
    if key not in _kernels and not _broken:
        try:
            _kernels[key] = _compile(function, tensors)
        except Exception as error:
            _broken = True
            warnings.warn(f"compile=True is turned off, the numbers stay the same: {_first_line(error)}", stacklevel=2)
    return _kernels.get(key, function)(*tensors)


def run_foreign(function: Function, tensors: Sequence[Tensor], *, name: str) -> list[Tensor]:
    """The same for a function with code in it that is not ours, which may do what cannot be traced: it is compiled only where
    none of its tensors' numbers steers it or leaves torch and where that gives its own numbers, and stays as it is, with a
    warning that names it, where not."""
    key = _key(function, tensors)
    if key not in _kernels and not _broken and function not in _refused:
        expected = function(*tensors)
        try:
            kernel = _compile(function, tensors, mode="fake")  # in which a tensor's numbers cannot be had
            if not all(_agree(a, b) for a, b in zip(kernel(*tensors), expected, strict=True)):
                raise ValueError("compiled, it gives other numbers")
            _kernels[key] = kernel
        except Exception as error:
            _refused.add(function)
            warnings.warn(f"{name} is not compiled, its numbers stay the same: {_first_line(error)}", stacklevel=2)
        return expected
    return _kernels.get(key, function)(*tensors)


def _key(function: Function, tensors: Sequence[Tensor]) -> tuple:
    layout = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    return function, torch.get_num_threads(), layout


def _agree(found: Tensor, expected: Tensor) -> bool:
    room = AGREEMENT * torch.finfo(expected.dtype).eps * expected.abs().max()
    return not bool(((found - expected).abs() > room).any()) and bool((found.isnan() == expected.isnan()).all())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _compile(function: Function, tensors: Sequence[Tensor], *, mode: Literal["real", "fake"] = "real") -> Function:
    global _seconds
    import torch._inductor  # takes a second, so only where it is asked for
    from torch.fx.experimental.proxy_tensor import make_fx

    start = seconds(tensors[0].device)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations
            graph = make_fx(function, tracing_mode=mode, _allow_non_fake_inputs=True)(*tensors)
            return cast(Function, torch._inductor.compile(graph, list(tensors)))
    finally:
        _seconds += seconds(tensors[0].device) - start
