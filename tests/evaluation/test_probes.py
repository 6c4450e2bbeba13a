"""Probes and label-free figures on features whose answer is known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medssl.core.errors import EvaluationError
from medssl.evaluation.choosing import ENOUGH
from medssl.evaluation.probes import INVERSE_PENALTIES, Labelled, knn_probe, linear_probe, pixels_probe
from medssl.evaluation.representation import feature_std, rankme


def gaussian(rng, num, dim=8, shift=1.5, num_classes=2):
    y = np.arange(num) % num_classes
    x = rng.normal(size=(num, dim))
    x[np.arange(num), y] += shift
    return Labelled(x, y, np.arange(num))


NOTHING = Labelled(np.empty((0, 8)), np.empty(0, np.int64), np.empty(0, np.int64))


@pytest.mark.parametrize("validation", ["given", "absent"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_linear_probe_finds_a_linear_signal_and_gives_probabilities(validation, num_classes):
    rng = np.random.default_rng(0)
    train, val, test = (gaussian(rng, n, num_classes=num_classes) for n in (120, 60, 300))
    p = linear_probe(train, val if validation == "given" else NOTHING, test.x, num_classes=num_classes)
    assert p.shape == (300, num_classes)
    assert p.sum(1) == pytest.approx(1)
    assert (p.argmax(1) == test.y).mean() > 0.7


def test_a_linear_probe_ignores_scale_and_offset_of_each_feature():
    rng = np.random.default_rng(0)
    train, val, test = (gaussian(rng, n) for n in (80, 40, 50))
    scale, offset = 10.0 ** rng.uniform(-3, 3, 8), rng.normal(size=8) * 100

    def moved(part):
        return Labelled(part.x * scale + offset, part.y, part.patients)

    plain = linear_probe(train, val, test.x, num_classes=2)
    assert linear_probe(moved(train), moved(val), moved(test).x, num_classes=2) == pytest.approx(plain, abs=1e-4)


def test_validation_chooses_the_penalty():
    """Two hundred noise features and few labels: no penalty overfits, which validation sees."""
    rng = np.random.default_rng(0)
    train, val, test = (gaussian(rng, n, dim=200, shift=1.2) for n in (40, 400, 600))
    chosen = roc_auc_score(test.y, linear_probe(train, val, test.x, num_classes=2)[:, 1])
    misled = Labelled(val.x, 1 - val.y, val.patients)  # validation that prefers the strongest penalty
    flat = linear_probe(train, misled, test.x, num_classes=2)
    assert np.ptp(flat[:, 1]) < 0.05  # C = 1e-5
    assert chosen > 0.55
    assert INVERSE_PENALTIES[0] == pytest.approx(1e-5)


def test_a_handful_of_validation_labels_chooses_nothing_and_is_not_learnt_from():
    rng = np.random.default_rng(3)
    train, test = gaussian(rng, 60, dim=50, shift=1.2), gaussian(rng, 40, dim=50)
    alone = linear_probe(train, Labelled(train.x[:0], train.y[:0], train.patients[:0]), test.x, num_classes=2)
    few, enough = (gaussian(rng, n, dim=50, shift=-1.2) for n in (2 * ENOUGH - 1, 20 * ENOUGH))  # both mislead
    assert (linear_probe(train, few, test.x, num_classes=2) == alone).all()
    assert np.abs(linear_probe(train, enough, test.x, num_classes=2) - alone).max() > 0.05


def test_without_validation_a_patient_is_never_on_both_sides_of_a_fold():
    """Features that tell patients apart and nothing else: folds by row trust them, folds by patient do not."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 8)
    y = patients % 2
    x = rng.normal(size=(30, 40))[patients] + rng.normal(scale=0.01, size=(240, 40))
    empty = Labelled(x[:0], y[:0], patients[:0])
    by_patient = linear_probe(Labelled(x, y, patients), empty, x, num_classes=2)
    by_row = linear_probe(Labelled(x, y, np.arange(240)), empty, x, num_classes=2)
    assert np.ptp(by_patient[:, 1]) < 0.1
    assert np.ptp(by_row[:, 1]) > 0.9


def test_one_patient_a_class_still_gives_a_probe_and_one_class_is_refused():
    x, y = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0, 1])
    empty = Labelled(x[:0], y[:0], y[:0])
    p = linear_probe(Labelled(x, y, y), empty, x, num_classes=2)
    assert p.argmax(1).tolist() == [0, 1]
    with pytest.raises(EvaluationError, match="two classes"):
        linear_probe(Labelled(x, np.zeros(2, np.int64), y), empty, x, num_classes=2)


def test_knn_votes_equal_a_naive_loop():
    rng = np.random.default_rng(0)
    train, test = gaussian(rng, 50, num_classes=3), gaussian(rng, 10, num_classes=3)
    votes = knn_probe(train, test.x, num_classes=3, k=7)
    for row, query in enumerate(test.x):
        cosine = [query @ t / np.linalg.norm(query) / np.linalg.norm(t) for t in train.x]
        expected = np.zeros(3)
        for i in sorted(range(50), key=lambda i: -cosine[i])[:7]:
            expected[train.y[i]] += np.exp(cosine[i] / 0.07)
        assert votes[row] == pytest.approx(expected / expected.sum())


def test_knn_uses_all_rows_where_there_are_fewer_than_k():
    rng = np.random.default_rng(0)
    train = gaussian(rng, 5)
    whole = knn_probe(train, rng.normal(size=(4, 8)), num_classes=2, k=20)
    assert whole.shape == (4, 2)
    assert (whole > 0).all()


def test_pixels_probe_finds_a_signal_in_a_few_components_of_many_pixels_and_repeats():
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(5, 400))

    def images(num):
        y = np.arange(num) % 2
        code = rng.normal(size=(num, 5))
        code[:, 0] += 2 * y
        return Labelled(code @ basis + 0.1 * rng.normal(size=(num, 400)), y, np.arange(num))

    train, val, test, unlabelled = (images(n) for n in (30, 30, 200, 300))
    p = pixels_probe(train, val, test.x, unlabelled.x, num_classes=2, seed=0)
    assert roc_auc_score(test.y, p[:, 1]) > 0.85
    assert (p == pixels_probe(train, val, test.x, unlabelled.x, num_classes=2, seed=0)).all()


def test_feature_std_is_about_one_on_the_sphere_and_zero_at_a_point():
    rng = np.random.default_rng(0)
    assert feature_std(rng.normal(size=(2000, 64))) == pytest.approx(1, abs=0.02)
    assert feature_std(np.ones((50, 64)) * rng.uniform(1, 9, size=(50, 1))) == pytest.approx(0, abs=1e-9)
    assert feature_std(np.zeros((5, 3))) == 0


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_rankme_counts_equal_directions(rank):
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 32)))[0][:rank]
    features = np.tile(np.eye(rank), (40, 1)) @ directions
    assert rankme(features) == pytest.approx(rank, rel=1e-3)


def test_rankme_of_many_rows_is_that_of_a_sample(monkeypatch):
    features = np.random.default_rng(0).normal(size=(4000, 16))
    whole = rankme(features)
    monkeypatch.setattr("medssl.evaluation.representation.RANKME_ROWS", 1000)
    assert rankme(features) == pytest.approx(whole, rel=0.01)
    assert rankme(features) != whole
