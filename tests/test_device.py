import pytest
import torch

from fedfuse import device as module
from fedfuse.configuration import DEVICES as CONFIGURABLE
from fedfuse.device import CPU, DEVICES, Device, choose_device, computing_on, current_device
from fedfuse.errors import ConfigurationError


class Remembering(Device):
    """The processor, which behaves as if its memory were another one."""

    @property
    def is_cuda(self):
        return True


def test_the_devices_are_those_that_can_be_configured():
    assert DEVICES == CONFIGURABLE == ("auto", "cpu", "cuda")


def test_without_a_device_auto_is_the_processor_and_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") is choose_device("cpu") is CPU
    with pytest.raises(ConfigurationError, match=r"^engine.device=cuda: torch sees no CUDA device here; .*\.$"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_device_that_torch_sees_is_taken(monkeypatch, name):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(module, "Device", lambda *words: chosen.append(words) or "device")
    assert choose_device(name, tf32=True) == "device"
    assert choose_device("cpu") is CPU
    assert chosen == [("cuda", True)]


def test_an_unknown_device_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigurationError, match=r"Unknown engine.device 'cude'. Did you mean 'cuda'\?"):
        choose_device("cude")


def test_it_is_computed_on_the_processor_unless_something_else_is_said():
    device = Remembering()
    assert current_device() is CPU
    with pytest.raises(KeyError), computing_on(device):
        assert current_device() is device
        raise KeyError
    assert current_device() is CPU


def test_the_processor_is_given_tensors_as_they_are_and_stacks_them_afresh():
    first, second = torch.arange(3.0), torch.arange(3.0, 6.0)
    assert CPU.hold(first) is first
    assert torch.equal(CPU.stack([first, second]), torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert CPU.stack([first, second]).data_ptr() not in (first.data_ptr(), second.data_ptr())
    assert CPU.fetch({"first": first})["first"] is first
    CPU.keep([first], second)
    assert CPU.stack([first])[0].tolist() == [0, 1, 2]


def test_shorter_tensors_are_padded_with_zeros():
    stacked = CPU.stack([torch.ones(1, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.int64)])
    assert stacked.tolist() == [[[1, 1], [0, 0], [0, 0]], [[1, 1], [1, 1], [1, 1]]]
    assert stacked.dtype == torch.int64


def test_every_tensor_and_every_stack_is_sent_once():
    device, first, second = Remembering(), torch.zeros(2), torch.ones(2)
    assert device.hold(first) is device.hold(first)
    stacked = device.stack([first, second])
    assert device.stack([first, second]) is stacked
    assert device.stack([second, first]).tolist() == [[1, 1], [0, 0]]


def test_a_tensor_that_was_changed_is_sent_again():
    device, tensor = Remembering(), torch.zeros(2)
    stacked = device.stack([tensor])
    tensor += 1
    assert device.stack([tensor]).tolist() == [[1, 1]]
    assert stacked.tolist() == [[0, 0]]


def test_what_is_on_the_device_already_is_not_sent():
    device, tensors, stacked = Remembering(), [torch.zeros(2), torch.zeros(2)], torch.full((2, 2), 5.0)
    device.keep(tensors, stacked)
    assert device.stack(tensors) is stacked


def test_in_the_end_everything_is_forgotten():
    device, tensor = Remembering(), torch.zeros(2)
    with computing_on(device):
        stacked = device.stack([tensor])
    assert device.stack([tensor]) is not stacked
    with pytest.raises(KeyError), computing_on(device):
        stacked = device.stack([tensor])
        raise KeyError
    assert device.stack([tensor]) is not stacked


def test_settings_of_torch_are_left_alone_on_the_processor():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with computing_on(Device(tf32=True)):
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
