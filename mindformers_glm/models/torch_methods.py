"""Methods of PyTorch's modules that published snippets call on a model, with what each means here."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from mindformers_glm.log import log_once


class TorchMethods(nn.Cell):
    """`model.eval()` and its kin: the model itself comes back, and what has no meaning here is said once."""

    def eval(self) -> TorchMethods:
        """The model for inference: nothing is dropped out."""
        return self.set_train(False)

    def half(self) -> TorchMethods:
        """The model as it is."""
        return self._same("half()", "types are chosen when a model is loaded (torch_dtype, or param_init_type)")

    def bfloat16(self) -> TorchMethods:
        """The model as it is."""
        return self._same("bfloat16()", "types are chosen when a model is loaded (torch_dtype, or param_init_type)")

    def float(self) -> TorchMethods:
        """The model as it is."""
        return self._same("float()", "types are chosen when a model is loaded (torch_dtype, or param_init_type)")

    def cuda(self, device: Any = None) -> TorchMethods:
        """The model as it is."""
        return self._same("cuda()", "MindSpore's device is chosen for the process (runtime.set_up, device_target)")

    def cpu(self) -> TorchMethods:
        """The model as it is."""
        return self._same("cpu()", "MindSpore's device is chosen for the process (runtime.set_up, device_target)")

    def to(self, *given: Any, **named: Any) -> TorchMethods:
        """The model as it is."""
        return self._same("to()", "device and types are chosen when a model is loaded")

    def requires_grad_(self, requires_grad: bool = True) -> TorchMethods:
        """All parameters with or without gradients."""
        for parameter in self.get_parameters():
            parameter.requires_grad = requires_grad
        return self

    def _same(self, call: str, why: str) -> TorchMethods:
        log_once(f"model.{call} has no effect: {why}")
        return self
