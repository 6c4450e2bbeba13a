"""Attentive probe: what the tokens of a frozen encoder hold beyond their mean.

One cross-attention whose query is learned looks over the tokens of an image, and a linear model reads what it gathered
(attentive probing of CAE, Chen et al., arXiv:2202.03026, and V-JEPA, Bardes et al., arXiv:2404.08471). With one query,
the product of query and key projection is one vector a head over whole tokens, which is what is learned here, and the
output projection is part of the linear model: the same functions without two redundant matrices, and a tenth of the
arithmetic (Psomas et al., Attention, Please!, arXiv:2506.10178, show the equivalence). Departures: no normalisation or
MLP behind the attention (tokens are standardised by the training images instead), and AdamW on cached tokens rather
than an encoder run over augmented images.

This is a solver on cached features, seeded and on the CPU, and no training loop of models; hence torch in this room.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from medssl.core.errors import EvaluationError
from medssl.core.keys import hash_words
from medssl.evaluation.choosing import Holdout
from medssl.evaluation.problem import Fit, Floats, Kind, Problem, Rows
from medssl.evaluation.solvers import Labelled, folds

HEADS = 8
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
WEIGHT_DECAY = 0.05
BATCH = 64
MOST_EPOCHS = 100
PATIENCE = 10
UNTUNED = (1e-3, 20)  # learning rate and epochs, where nothing can be held out


def attentive_fit(problem: Problem, tokens: NDArray[Any], name: str = "tokens", heads: int = HEADS) -> Fit:
    """Return an attentive probe on cached tokens ``N L D``.

    Learning rate and number of epochs have the least held-out loss, by the rule of ``solvers``: with ``val`` the
    weights of that epoch are kept; else one fold of the training patients is held out, and the chosen number of epochs
    is trained anew on all of them. The same seed gives the same predictions.

    Raises:
        EvaluationError: tokens are not ``N L D``, not finite, or ``D`` is no multiple of the number of heads.
    """
    if tokens.ndim != 3 or len(tokens) != len(problem) or tokens.shape[2] % heads:
        raise EvaluationError(
            f"{name} has shape {tokens.shape}: expected {len(problem)} rows, tokens, and a multiple of {heads} channels"
        )
    if not np.isfinite(tokens).all():
        raise EvaluationError(f"{name}: {(~np.isfinite(tokens)).any(axis=(1, 2)).sum()} rows are not finite")

    def fit(train: Rows, val: Rows, test: Rows, seed: int) -> Floats:
        known = Labelled.of(problem, tokens, train), Labelled.of(problem, tokens, val)
        if len(np.unique(known[0].y)) < 2:
            raise EvaluationError(f"a probe needs two labels to train on, found one among {len(train)} rows")
        return _Trainer(problem, heads, seed).predict(*known, tokens[test])

    return fit


class AttentiveProbe(nn.Module):
    """``heads`` learned directions that tokens are weighed by, a value projection for each, and a linear head."""

    def __init__(self, width: int, heads: int, num_outputs: int, generator: torch.Generator) -> None:
        """Draw the weights: truncated normal of 0.02, as in V-JEPA; the head starts at zero, as a linear probe does."""
        super().__init__()
        self.query = nn.Parameter(torch.empty(heads, width))
        self.value = nn.Parameter(torch.empty(heads, width, width // heads))
        self.head = nn.Parameter(torch.zeros(num_outputs, width))
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        nn.init.trunc_normal_(self.query, std=0.02, generator=generator)
        nn.init.trunc_normal_(self.value, std=width**-0.5, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``B K`` of tokens ``B L D``."""
        weight = (tokens @ self.query.T).softmax(dim=1)  # B L H
        gathered = weight.transpose(1, 2) @ tokens  # B H D
        return F.linear(torch.einsum("bhd,hdv->bhv", gathered, self.value).flatten(1), self.head, self.bias)


@dataclass(frozen=True)
class _Trained:
    loss: float
    epochs: int
    model: AttentiveProbe


@dataclass(frozen=True)
class _Trainer:
    problem: Problem
    heads: int
    seed: int

    def predict(self, train: Labelled, val: Labelled, test_x: NDArray[Any]) -> Floats:
        """Return ``M K`` predictions for ``test_x``."""
        mean, spread = train.x.mean(axis=(0, 1)), train.x.std(axis=(0, 1)) + 1e-6
        x = self._tensor((np.concatenate([train.x, val.x]) - mean) / spread)
        y = np.concatenate([train.y, val.y])
        centre, scale = (train.y.mean(), train.y.std()) if self._numbers else (0.0, 1.0)
        target = self._tensor((y - centre) / scale) if not self.problem.kind.exclusive else torch.from_numpy(y)
        whole = np.arange(len(train.y))
        held_out = folds(train, val, self.problem.kind)[:1]
        if not held_out:
            model = self._train(x, target, Holdout(whole, whole[:0]), *UNTUNED).model
        else:
            runs = {rate: self._train(x, target, held_out[0], rate, MOST_EPOCHS) for rate in LEARNING_RATES}
            rate, best = min(runs.items(), key=lambda run: run[1].loss)
            model = best.model
            if not held_out[0].is_val:
                model = self._train(x, target, Holdout(whole, whole[:0]), rate, best.epochs).model
        with torch.no_grad():
            out = torch.cat([model(self._tensor((part - mean) / spread)) for part in _parts(test_x)]).double()
        if self.problem.kind.exclusive:
            return out.softmax(dim=1).numpy()
        return (out * scale + centre).numpy() if self._numbers else out.sigmoid().numpy()

    def _train(self, x: Tensor, target: Tensor, fold: Holdout, rate: float, epochs: int) -> _Trained:
        """Return the epoch of least held-out loss, or the last one where nothing is held out."""
        generator = torch.Generator().manual_seed(hash_words("attentive probe", self.seed) % 2**63)
        model = AttentiveProbe(x.shape[2], self.heads, self.problem.num_outputs, generator)
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
        best = _Trained(np.inf, 0, model)
        for epoch in range(1, epochs + 1):
            order = torch.from_numpy(fold.fit)[torch.randperm(len(fold.fit), generator=generator)]
            for rows in torch.split(order, BATCH):
                optimiser.zero_grad()
                self._loss(model(x[rows]), target[rows]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            if not len(fold.held):
                continue
            with torch.no_grad():
                given = torch.cat([model(x[rows]) for rows in torch.split(torch.from_numpy(fold.held), BATCH)])
                loss = float(self._loss(given, target[fold.held]))
            if loss < best.loss:
                best = _Trained(loss, epoch, copy.deepcopy(model))
            elif epoch - best.epochs >= PATIENCE:
                break
        return best if len(fold.held) else _Trained(np.nan, epochs, model)

    def _loss(self, given: Tensor, target: Tensor) -> Tensor:
        if self.problem.kind.exclusive:
            return F.cross_entropy(given, target)
        if self._numbers:
            return F.mse_loss(given[:, 0], target)
        return F.binary_cross_entropy_with_logits(given, target)

    @property
    def _numbers(self) -> bool:
        return self.problem.kind is Kind.REGRESSION

    @staticmethod
    def _tensor(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32))


def _parts(x: NDArray[Any]) -> Sequence[NDArray[Any]]:
    return np.array_split(x, max(1, -(-len(x) // BATCH)))
