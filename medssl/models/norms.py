"""Batch norm over any number of spatial axes, by the statistics of the whole batch however many processes share it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.core.collectives import gathered, world_size


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm (Ioffe 2015) of ``B D`` and ``B C *S``, synchronised over processes on any device.

    In place of ``nn.BatchNorm1d``, ``2d`` and ``3d``, with their state dict. One process computes ``F.batch_norm``;
    several normalise by the joint mean and variance (Chan 1979), also where their shares of the batch are unequal.
    A single value a channel has no variance, so it is normalised by the running statistics and leaves them alone.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm expects B D or B C *S, got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input``; gradients flow through the other processes' statistics too."""
        self._check_input_dim(input)
        by_batch = self.training or self.running_mean is None
        if by_batch and world_size() > 1:
            return self._synchronised(input)
        if by_batch and input.numel() == input.shape[1]:
            return self._affine(input, *self._known(input))
        return super().forward(input)

    def _synchronised(self, input: Tensor) -> Tensor:
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0)  # C
        own = torch.stack([mean, variance, torch.full_like(mean, x.numel() / x.shape[1])])
        means, variances, counts = gathered(own.unsqueeze(0)).unbind(1)  # ranks C
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
        if self.training and self.track_running_stats:
            self._remember(mean.detach(), (variance * total / (total - 1)).detach())
        return self._affine(input, mean, variance)

    def _known(self, input: Tensor) -> tuple[Tensor, Tensor]:
        if self.running_mean is None or self.running_var is None:
            return torch.zeros_like(input[0].flatten()), torch.ones_like(input[0].flatten())
        return self.running_mean, self.running_var

    @torch.no_grad()
    def _remember(self, mean: Tensor, unbiased: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(unbiased.to(self.running_var), share)

    def _affine(self, input: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        scale = (variance + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        shape = (-1, *(1,) * (input.ndim - 2))
        return torch.addcmul(shift.view(shape), input, scale.view(shape)).to(input.dtype)
