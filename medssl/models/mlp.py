"""The two layers between attentions: timm's, with the activation computed again for the gradient on a CPU.

What the activation returns is the largest buffer of a block and the cheapest to make: not storing it takes a tenth off
a step's memory for a hundredth of its time. On an accelerator torch.compile weighs this itself.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import Mlp as TimmMlp
from torch import Tensor


class Mlp(TimmMlp):  # type: ignore[misc]
    """timm's two layers around a GELU, with their parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Map each token of ``B N D``."""
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return cast(Tensor, super().forward(x))
        hidden = self.fc1(x)  # B N 4D
        weight, bias = (p.to(hidden.dtype) for p in (self.fc2.weight, self.fc2.bias))
        return cast(Tensor, _GeluLinear.apply(hidden, weight, bias))


class _GeluLinear(torch.autograd.Function):
    """``linear(gelu(hidden))``, of which only ``hidden`` is kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return F.linear(F.gelu(hidden), weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        rows, needed = grad.flatten(0, -2), ctx.needs_input_grad
        to_weight = rows.t() @ F.gelu(hidden).flatten(0, -2) if needed[1] else None
        to_hidden = torch.ops.aten.gelu_backward(grad @ weight, hidden) if needed[0] else None
        return to_hidden, to_weight, rows.sum(0) if needed[2] else None
