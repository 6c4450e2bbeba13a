"""Self-attention among tokens: timm's, on torch's fused kernel; written out where that kernel is slow.

Torch's fused kernel for CPUs takes, in bfloat16, three to ten times as long backward as the matrix products that it
stands for. There they are written out; where the attention weights are larger than what they come from, they are
computed again for the gradient and not stored.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import Attention as TimmAttention
from torch import Tensor


class Attention(TimmAttention):  # type: ignore[misc]
    """timm's attention with its parameters, for any number of tokens."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Mix the tokens ``B N D``; ``attn_mask`` is added to the scores."""
        qkv = self.qkv(x)  # B N 3D
        if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu" and attn_mask is None and not is_causal:
            return cast(Tensor, self.proj(_Attend.apply(qkv, self.num_heads)))
        q, k, v = _heads(qkv, self.num_heads).unbind(0)  # B heads N d
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        return cast(Tensor, self.proj(mixed.transpose(1, 2).flatten(2)))

    def weights(self, x: Tensor) -> Tensor:
        """Return how much each token attends to each, ``B heads N N`` in fp32; rows sum to 1."""
        q, k, _ = _heads(self.qkv(x), self.num_heads).float().unbind(0)
        scores = q @ k.transpose(-2, -1) * self.scale
        return cast(Tensor, scores.float().softmax(-1))  # autocast leaves bfloat16


def _heads(qkv: Tensor, num: int) -> Tensor:
    """Return ``3 B heads N d`` of ``B N 3D``."""
    return qkv.view(*qkv.shape[:2], 3, num, -1).permute(2, 0, 3, 1, 4)


class _Attend(torch.autograd.Function):
    """Attention over packed queries, keys and values ``B N 3D``; the result is ``B N D``."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num: int) -> Tensor:
        split = _heads(qkv, num)
        packed = split.flatten(1, 2).contiguous()  # 3 (B heads) N d
        q, k, v = packed.unbind(0)
        q.mul_(q.shape[-1] ** -0.5)
        ctx.shape = split.shape[1:]
        weights = torch.bmm(q, k.transpose(1, 2)).softmax(-1)
        ctx.save_for_backward(packed, *([weights] if weights.numel() < packed.numel() else []))
        return torch.bmm(weights, v).view(ctx.shape).transpose(1, 2).flatten(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        packed, *kept = ctx.saved_tensors
        q, k, v = packed.unbind(0)
        batch, num, length, depth = ctx.shape
        grad = grad.view(batch, length, num, depth).transpose(1, 2).flatten(0, 1).contiguous()  # (B heads) N d
        weights = kept[0] if kept else torch.bmm(q, k.transpose(1, 2)).softmax(-1)
        back = torch.empty_like(packed)
        torch.bmm(weights.transpose(1, 2), grad, out=back[2])
        scores = torch.ops.aten._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), weights, -1, weights.dtype)
        torch.bmm(scores, k, out=back[0]).mul_(depth**-0.5)
        torch.bmm(scores.transpose(1, 2), q, out=back[1])
        return back.view(3, *ctx.shape).permute(1, 3, 0, 2, 4).reshape(batch, length, -1), None
