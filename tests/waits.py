"""How often something asks for a tensor's number, for which a GPU has to finish all that was begun."""

from torch.utils._python_dispatch import TorchDispatchMode

ASKING = {
    "aten::_local_scalar_dense",  # float(x), bool(x), x.item(), `if x:`
    "aten::equal",
}


class Waits(TorchDispatchMode):
    """`count` of them. What torch itself asks inside of an operation is not seen: of those used here eigh, once."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name() in ASKING
        return func(*args, **(kwargs or {}))
