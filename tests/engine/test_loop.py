"""The training loop: exact under accumulation and resume, clear about what goes wrong."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import files_of_at_most
from memory_feed import CPU, IMAGES, Images, Memory, Ready, Regression, method

from medssl.core.batch import Views
from medssl.core.errors import Preempted, TrainingError
from medssl.core.files import read_json
from medssl.engine.loop import Session, train
from medssl.engine.monitors.representation import RepresentationMonitor
from medssl.engine.optim import LoopConfig

MODELS = {
    "mae on a ViT with drop-path": lambda: method(
        "mae", "vit", {"width": 24, "depth": 2, "heads": 2, "patch": 4, "drop_path": 0.2}
    ),
    "rotation on a CNN with batch norm": lambda: method("rotation", "resnet", {"depth": 10, "width": 8}),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(model: str, optimiser: str, tmp_path: Path) -> None:
    config = LoopConfig(epochs=5, batch_size=6, optimiser=optimiser, lr=1e-2, log_steps=1)  # 20 steps
    whole, halves, journal = MODELS[model](), MODELS[model](), Memory()
    torch.manual_seed(1)  # whatever the global generator holds, the loop's own is keyed by seed and step
    train(whole, Images(6), config, Session(tmp_path / "whole", Memory()), CPU)
    torch.manual_seed(2)
    with pytest.raises(Preempted, match="stopped at step 10 of 20"):
        train(halves, Images(6), config, Session(tmp_path / "halves", journal, stop_after=10), CPU)
    torch.manual_seed(3)
    restarted = MODELS[model]()
    train(restarted, Images(6), config, Session(tmp_path / "halves", journal, resume=True), CPU)
    for (name, one), two in zip(whole.state_dict().items(), restarted.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert [s for s, v in journal.seen if "loss" in v] == list(range(1, 21))


def test_two_threads_give_the_same_bits_each_time(tmp_path: Path) -> None:
    """Rows of learned positions are taken several times, so that their gradients are sums over threads."""

    def trained(folder: Path) -> list[torch.Tensor]:
        images = torch.rand(24, 1, 192, 192, generator=torch.Generator().manual_seed(0))
        model = method(
            "mae", "vit", {"width": 96, "depth": 1, "heads": 3, "patch": 16, "positions": "learned"}, shape=(192, 192)
        )
        keys = torch.arange(24).view(-1, 1)
        views = Views((images,), keys, torch.arange(24))

        class Same:
            steps_per_epoch = 1

            def steps(self, first: int, total: int):
                yield from ([Ready(views)] for _ in range(first, total))

        train(model, Same(), LoopConfig(epochs=4, batch_size=24), Session(folder, Memory()), CPU)
        return list(model.state_dict().values())

    num = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        one, *others = (trained(tmp_path / str(i)) for i in range(3))
    finally:
        torch.set_num_threads(num)
    assert not torch.are_deterministic_algorithms_enabled()
    for other in others:
        assert all(map(torch.equal, one, other))


def test_accumulating_equals_a_larger_batch(tmp_path: Path) -> None:
    results = []
    for size, accumulate in ((12, 1), (4, 3), (5, 1)):
        model = Regression().double()
        for p in model.parameters():
            p.data = p.data.double()
        feed = Images(size, accumulate)
        feed_steps = feed.steps
        feed.steps = lambda f, t, s=feed_steps: (  # type: ignore[method-assign]
            [Ready(Views((b.made.images[0].double(),), b.made.keys, b.made.volume)) for b in step] for step in s(f, t)
        )
        config = LoopConfig(epochs=4, batch_size=size, accumulate=accumulate, lr=1e-2)
        train(model, feed, config, Session(tmp_path / f"{size}", Memory()), CPU)
        results.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.allclose(results[0], results[1], atol=1e-9, rtol=0)
    assert not torch.allclose(results[0], results[2], atol=1e-4)


def test_sigterm_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    model = Regression()
    model.on_step_end = lambda p: os.kill(os.getpid(), signal.SIGTERM) if p.step == 3 else None  # type: ignore[method-assign]
    with pytest.raises(Preempted, match="--resume") as stopped:
        train(model, Images(6), LoopConfig(epochs=5, batch_size=6), Session(tmp_path, Memory()), CPU)
    assert stopped.value.exit_code == 75
    restarted = Regression()
    train(restarted, Images(6), LoopConfig(epochs=5, batch_size=6), Session(tmp_path, Memory(), resume=True), CPU)
    assert restarted.ended == list(range(4, 21))
    assert threading.current_thread() is threading.main_thread()


def test_resuming_a_changed_study_says_what_changed(tmp_path: Path) -> None:
    config = LoopConfig(epochs=1, batch_size=6)
    train(Regression(), Images(6), config, Session(tmp_path, Memory(), {"method.mask_ratio": 0.75, "seed": 0}), CPU)
    changed = Session(tmp_path, Memory(), {"method.mask_ratio": 0.6, "seed": 0}, resume=True)
    with pytest.raises(TrainingError, match=r"method\.mask_ratio was 0\.75 and is now 0\.6; put it back"):
        train(Regression(), Images(6), config, changed, CPU)


def test_non_finite_losses_are_skipped_noted_and_in_the_end_fatal(tmp_path: Path) -> None:
    journal, model = Memory(), Regression()
    with pytest.raises(TrainingError, match="not finite in 5 steps in a row"):
        train(model, Images(6, poison=2), LoopConfig(epochs=5, batch_size=6), Session(tmp_path, journal), CPU)
    assert len(journal.notes) == 5
    assert "its batch is in step-00000002.json" in journal.notes[0]
    assert read_json(tmp_path / "nonfinite" / "step-00000002.json")["first"] == "voxels"
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_full_disk_costs_the_record_of_a_bad_batch_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Regression()
    session = Session(tmp_path, Memory(), recoverable=False)
    with files_of_at_most(50), pytest.raises(TrainingError, match="not finite in 5 steps in a row"):
        train(model, Images(6, poison=2), LoopConfig(epochs=5, batch_size=6), session, CPU)
    assert "step 2: loss or gradient not finite, step skipped; its batch could not be kept (File too large)" in (
        " ".join(capsys.readouterr().err.split())
    )


def test_a_skipped_step_leaves_batch_norm_as_it_was(tmp_path: Path) -> None:
    model = MODELS["rotation on a CNN with batch norm"]()
    with pytest.raises(TrainingError):
        train(model, Images(6, poison=1), LoopConfig(epochs=5, batch_size=6), Session(tmp_path, Memory()), CPU)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_a_forced_collapse_raises_the_alarm_and_a_healthy_run_does_not(tmp_path: Path) -> None:
    def spread(features: np.ndarray) -> dict[str, float]:
        return {"spread": float(features.std(0).mean())}

    for scale, alarmed in ((1.0, False), (0.0, True)):
        model = method("rotation", "resnet", {"depth": 10, "width": 8, "norm": "group"})
        for p in model.encoder.parameters():
            p.data *= scale
        monitor = RepresentationMonitor(model.encoder, IMAGES[:8], spread, {"spread": 1e-6}, every=2)
        journal = Memory()
        config = LoopConfig(epochs=1, batch_size=6, lr=1e-5, log_steps=1)
        train(model, Images(6), config, Session(tmp_path / str(scale), journal, monitors=[monitor]), CPU)
        assert any("collapsing: spread" in n for n in journal.notes) == alarmed
        assert sum("spread" in v for _, v in journal.seen) == 2
