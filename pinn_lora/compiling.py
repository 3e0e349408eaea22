"""Functions of tensors, compiled by TorchInductor for every shape they meet: what fuses a chain of operations into one loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from pinn_lora.clock import seconds

Function = Callable[..., list[Tensor]]

AGREEMENT = 1e4  # roundings of the largest entry that compiled numbers may be away

KERNELS = 256  # kept, and as many functions that are refused: those used last
NO_COMPILER = {
    "InvalidCxxCompiler",
    "TritonMissing",
    "GPUTooOldForTriton",
}  # by name: an older torch has not all of them

_kernels: dict[tuple, Function] = {}
_refused: dict[Function, None] = {}  # functions that stay as they are
_broken = False  # set once where there is no compiler
_seconds = 0.0  # spent on compiling so far


def can_compile() -> bool:
    """Whether this process has not missed a compiler so far."""
    return not _broken


def compile_seconds() -> float:
    """Seconds that this process has spent on compiling so far, by the clock that runs are timed by."""
    return _seconds


def run(function: Function, tensors: Sequence[Tensor], *, name: str = "a pass through the network") -> list[Tensor]:
    """function(*tensors), compiled for their shapes; where that fails the function itself from then on, with a warning that
    names it, and everything as it is where there is no compiler.

    Not torch.compile: it keeps at most eight shapes of a function, and its guards take longer than the short kernels.
    """
    key = _key(function, tensors)
    kernel = _known(key)
    if kernel is None and _may_compile(function):
        try:
            kernel = _compile(function, tensors)
            _keep(_kernels, key, kernel)
        except Exception as error:
            _refuse(function, name, error)
    return (kernel or function)(*tensors)


def run_foreign(function: Function, tensors: Sequence[Tensor], *, name: str) -> list[Tensor]:
    """The same for a function with code in it that is not ours, which may do what cannot be traced: it is compiled only where
    none of its tensors' numbers steers it or leaves torch and where that gives its own numbers, and stays as it is, with a
    warning that names it, where not."""
    key = _key(function, tensors)
    kernel = _known(key)
    if kernel is None and _may_compile(function):
        expected = function(*tensors)
        try:
            kernel = _compile(function, tensors, mode="fake")  # in which a tensor's numbers cannot be had
            if not all(_agree(a, b) for a, b in zip(kernel(*tensors), expected, strict=True)):
                raise ValueError("compiled, it gives other numbers")
            _keep(_kernels, key, kernel)
        except Exception as error:
            _refuse(function, name, error)
        return expected
    return (kernel or function)(*tensors)


def _key(function: Function, tensors: Sequence[Tensor]) -> tuple:
    layout = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    return function, torch.get_num_threads(), layout


def _known(key: tuple) -> Function | None:
    kernel = _kernels.pop(key, None)
    if kernel is not None:
        _kernels[key] = kernel  # the last one used is the last one dropped
    return kernel


def _keep(cache: dict, key: Hashable, value: Any) -> None:
    cache[key] = value
    if len(cache) > KERNELS:
        del cache[next(iter(cache))]


def _may_compile(function: Function) -> bool:
    return not _broken and function not in _refused


def _refuse(function: Function, name: str, error: Exception) -> None:
    """Nothing is compiled any more where there is no compiler; after any other error this function alone stays as it is."""
    global _broken
    cause = getattr(error, "inner_exception", error)
    if type(cause).__name__ in NO_COMPILER:
        _broken, what = True, "compile=True is turned off, the numbers stay the same"
    else:
        _keep(_refused, function, None)
        what = f"{name} is not compiled, its numbers stay the same"
    warnings.warn(f"{what}: {_told(cause)}", stacklevel=3)


def _told(cause: Exception) -> str:
    """Its first line, or a compiler's own first line that names an error."""
    lines = str(cause).strip().partition("\nOutput:\n")[2].splitlines()
    said = next((line for line in lines if "error" in line), str(cause).strip())
    return (said or type(cause).__name__).splitlines()[0]


def _agree(found: Tensor, expected: Tensor) -> bool:
    room = AGREEMENT * torch.finfo(expected.dtype).eps * expected.abs().max()
    return not bool(((found - expected).abs() > room).any()) and bool((found.isnan() == expected.isnan()).all())


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
