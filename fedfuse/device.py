"""Where cohorts are computed: on the processor, or on a CUDA device that holds what it was given until a phase ends."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedfuse.errors import ConfigurationError, unknown_name

DEVICES = ("auto", "cpu", "cuda")


class Device:
    """One device.

    What goes in and what comes out lies in the memory of the processor. A CUDA device gets every tensor, and every
    stack of tensors, once while it is being computed on; see `computing_on`.

    Parameters
    ----------
    kind : str
        ``cpu`` or ``cuda``.
    tf32 : bool
        Whether a CUDA device may round the factors of products of float32 numbers to 10 bits.
    """

    def __init__(self, kind: str = "cpu", tf32: bool = False) -> None:
        self.torch_device = torch.device(kind)
        self._tf32 = tf32
        # One for good: torch keeps working memory for each stream. Not the default one, which no graph can be made of.
        self._stream = torch.cuda.Stream() if kind == "cuda" else None  # type: ignore[no-untyped-call]
        # The processor's tensors are kept beside the copies, because a tensor that comes later may get the same id.
        self._copies: dict[tuple[tuple[int, int], ...], tuple[Sequence[Tensor], Tensor]] = {}

    @property
    def is_cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return self.torch_device.type == "cuda"

    def hold(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device, which nobody may change."""
        return self._copy([tensor], lambda: tensor)

    def stack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Stack tensors on the device, those of fewer rows padded with zeros; nobody may change the result."""

        def stack() -> Tensor:
            if len({tensor.shape for tensor in tensors}) > 1:
                return pad_sequence(list(tensors), batch_first=True)
            first = tensors[0]
            memory = first.new_empty((len(tensors), *first.shape), pin_memory=self._stream is not None)
            return torch.stack(list(tensors), out=memory)

        return self._copy(tensors, stack)

    def fetch(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors in the processor's memory; waits until they are computed."""
        if self._stream is None:
            return dict(tensors)
        fetched = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
            for name, tensor in tensors.items()
        }
        self._stream.synchronize()
        return fetched

    def keep(self, tensors: Sequence[Tensor], stacked: Tensor) -> None:
        """Remember what on the device equals the stack of these tensors of the processor."""
        if self.is_cuda:
            self._copies[_identity(tensors)] = (list(tensors), stacked)

    def forget(self) -> None:
        """Let go of everything that is held."""
        self._copies.clear()

    def _copy(self, tensors: Sequence[Tensor], make: Callable[[], Tensor]) -> Tensor:
        if not self.is_cuda:
            return make()
        key = _identity(tensors)
        if key not in self._copies:
            self._copies[key] = (list(tensors), make().to(self.torch_device, non_blocking=True))
        return self._copies[key][1]

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Compute with this device's precision, the same way every time, and forget what it holds afterwards."""
        if self._stream is None:
            try:
                yield
            finally:
                self.forget()
            return
        precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
        before = cudnn.allow_tf32, cudnn.deterministic
        torch.set_float32_matmul_precision("high" if self._tf32 else "highest")
        cudnn.allow_tf32, cudnn.deterministic = self._tf32, True
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            torch.set_float32_matmul_precision(precision)
            cudnn.allow_tf32, cudnn.deterministic = before
            self.forget()


def _identity(tensors: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    # The version counts changes in place.
    return tuple((id(tensor), tensor._version) for tensor in tensors)


CPU = Device()
_current: ContextVar[Device] = ContextVar("device", default=CPU)


def current_device() -> Device:
    """Return the device that is computed on: the processor, unless `computing_on` says otherwise."""
    return _current.get()


@contextlib.contextmanager
def computing_on(device: Device) -> Iterator[None]:
    """Let runners and predictions compute on a device; what it holds is forgotten in the end."""
    token = _current.set(device)
    try:
        with device.at_work():
            yield
    finally:
        _current.reset(token)


def choose_device(name: str, tf32: bool = False) -> Device:
    """Choose the device of a run.

    Parameters
    ----------
    name : str
        One of `DEVICES`; ``auto`` takes a CUDA device where torch sees one.
    tf32 : bool
        See `Device`; the processor takes no notice.

    Raises
    ------
    ConfigurationError
        If the name is unknown, or torch sees no CUDA device where it must be one.
    """
    if name not in DEVICES:
        raise unknown_name("engine.device", name, DEVICES)
    sees_cuda = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not sees_cuda:
        raise ConfigurationError(
            "engine.device=cuda: torch sees no CUDA device here; engine.device=auto takes cpu then."
        )
    return Device("cuda", tf32) if sees_cuda else CPU
