"""Metrics equal their official scorers on the inputs of metric_cases.py (see make_metrics.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.parity import metric_cases as cases
from vljax.evaluation.metrics import (
    classification,
    hallucination,
    probes,
    ranking,
    uncertainty,
    vqa,
)

REFERENCE = json.loads((Path(__file__).parent / "data/metrics.json").read_text())


def test_vqa_accuracy_equals_the_script_of_vqa_v2():
    found = [100 * vqa.vqa_accuracy(answer, people) for answer, people in cases.questions()]
    assert found == pytest.approx(REFERENCE["vqa_accuracy"], abs=1e-9)
    assert len({round(value) for value in found}) > 4  # not all right or all wrong


def test_the_quirks_of_vqa_accuracy_show_in_these_cases():
    """Each of them is needed for the parity above."""
    official = REFERENCE["vqa_accuracy"]
    asked = cases.questions()
    always = [100 * vqa.vqa_accuracy(*case, normalise="always") for case in asked]
    all_periods = [100 * vqa.vqa_accuracy(*case, periods=None) for case in asked]
    assert always != pytest.approx(official, abs=1e-9)
    assert all_periods != pytest.approx(official, abs=1e-9)


def test_relaxed_accuracy_equals_pix2struct():
    pairs = cases.number_pairs()
    found = [vqa.relaxed_accuracy(answer, [reference]) for reference, answer in pairs]
    assert found == REFERENCE["relaxed_accuracy"]


def test_anls_with_the_options_of_pix2struct_equals_it():
    pairs = cases.lowered_pairs()
    options = {"at": "wrong", "length": "normalised"}
    found = [vqa.anls(answer, [truth], **options) for truth, answer in pairs]
    assert found == pytest.approx(REFERENCE["anls"], abs=1e-9)
    assert 0.5 in [vqa.anls(answer, [truth]) for truth, answer in pairs]


def test_pope_equals_its_script():
    found = hallucination.pope(*cases.polls())
    official = REFERENCE["pope"]
    names = ["Accuracy", "Precision", "Recall", "F1 score", "Yes ratio"]
    assert list(found) == pytest.approx([official[name] for name in names], abs=1e-12)


def test_chair_equals_its_script_on_words():
    texts, present = cases.captions()
    table = hallucination.synonym_table(cases.SYNONYMS)
    mentions = [hallucination.mentioned_objects(text.split(), table) for text in texts]
    official = REFERENCE["chair"]
    assert [" ".join(words) for words in mentions] == official["objects"]
    found = hallucination.chair(mentions, present)
    assert found.sentence == pytest.approx(official["CHAIRs"], abs=1e-12)
    assert found.instance == pytest.approx(official["CHAIRi"], abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_and_auroc_equal_scikit_learn(ties):
    scores, labels = cases.scored(11, ties=ties)
    official = REFERENCE["classification"][f"ties_{ties}"]
    of_class = list(zip(scores.T, labels.T, strict=True))
    for metric, name in (
        (classification.average_precision, "ap"),
        (classification.auroc, "auroc"),
    ):
        assert [metric(*case) for case in of_class] == pytest.approx(official[name], abs=1e-12)
    mean = classification.mean_average_precision(scores, labels)
    assert mean == pytest.approx(sum(official["ap"]) / 6, abs=1e-12)


def test_map_with_an_empty_class_as_zero_equals_clip_benchmark():
    """Which computes in float32."""
    scores, labels = cases.scored(11, ties=False)
    labels[:, 2] = False
    found = classification.mean_average_precision(scores, labels, empty="zero")
    assert found == pytest.approx(REFERENCE["classification"]["clip_benchmark_map"], abs=1e-6)


def test_f1_and_recall_equal_scikit_learn():
    given, truth = cases.classified(12)
    official = REFERENCE["classification"]
    for average in ("macro", "micro", "weighted"):
        found = classification.f1_score(given, truth, average=average)
        assert found == pytest.approx(official[f"f1_{average}"], abs=1e-12)
    ranks = np.where(given == truth, 1, 2)
    found = classification.mean_per_class_recall(ranks, truth)
    assert found == pytest.approx(official["balanced_accuracy"], abs=1e-12)
    logits, labels = cases.scored(13, ties=False)
    ranks = classification.label_ranks(logits, labels.argmax(1))
    assert classification.top_k_accuracy(ranks, 2) == official["top_2"]


def test_retrieval_equals_clip_benchmark_and_scikit_learn():
    """Shares and hits of CLIP_benchmark's recall, from float32; AP of scikit-learn."""
    texts, images, owner = cases.embeddings()
    own = np.arange(len(images))
    found = {}
    for name, ranks in (
        ("images", ranking.positive_ranks(texts, images, owner, own)),
        ("texts", ranking.positive_ranks(images, texts, own, owner)),
    ):
        for k in (1, 5, 10):
            found[f"{name}_share@{k}"] = ranking.recall_share_at_k(ranks, k)
            found[f"{name}_hits@{k}"] = ranking.recall_at_k(ranks.best, k)
        found[f"{name}_map"] = ranking.retrieval_map(ranks)
    assert found == pytest.approx(REFERENCE["retrieval"], abs=1e-6)
    assert found["texts_share@5"] < found["texts_hits@5"]


@pytest.mark.parametrize(("c", "tolerance"), [(0.01, 1e-4), (1.0, 1e-3), (100.0, 3e-2)])
def test_logistic_regression_equals_scikit_learn(c, tolerance):
    """In float32 against float64 to convergence; weights reach 2, biases 10 times as far."""
    x, y, x_test, y_test = cases.features()
    official = REFERENCE["probes"][f"logistic_{c}"]
    found = probes.logistic_regression(x, y, c=c)
    assert found.weights == pytest.approx(np.array(official["weights"]), abs=tolerance)
    assert found.bias == pytest.approx(np.array(official["bias"]), abs=10 * tolerance)
    accuracy = (found.scores(x_test).argmax(axis=1) == y_test).mean()
    assert accuracy == pytest.approx(official["accuracy"], abs=1e-12)


@pytest.mark.parametrize("k", cases.NEIGHBOURS)
def test_nearest_neighbours_equal_scikit_learn_and_dino(k):
    x, y, x_test, y_test = cases.features()
    votes = probes.knn_votes(x, y, x_test, k=k, weights="uniform")
    assert "".join(map(str, votes.argmax(axis=1))) == REFERENCE["probes"][f"knn_{k}"]
    votes = probes.knn_votes(x, y, x_test, k=k)
    ranks = classification.label_ranks(votes, y_test, ties="first")
    best, five = REFERENCE["probes"][f"dino_{k}"]
    assert 100 * classification.top_k_accuracy(ranks, 1) == pytest.approx(best, abs=1e-9)
    if k >= 20:  # with fewer, most classes have no vote, and DINO's order of them is any
        assert 100 * classification.top_k_accuracy(ranks, 5) == pytest.approx(five, abs=1e-9)


def test_few_shot_regression_equals_big_vision():
    """In float32 both; at most one of 300 test examples is at a tie."""
    x, y, x_test, y_test = cases.features()
    found = probes.few_shot_right(
        (x, y), (x_test, y_test), shots=cases.SHOTS, l2=cases.RIDGES
    ).mean(axis=-1)
    official = np.stack([REFERENCE["probes"][f"few_shot_{l2}"] for l2 in cases.RIDGES], axis=-1)
    assert found == pytest.approx(official, abs=1.01 / 300)
    assert np.ptp(found) > 0.2


def test_bootstrap_intervals_equal_scipy():
    first, second, _ = cases.clustered()
    official, options = REFERENCE["bootstrap"], {"resamples": 5000, "seed": 3}
    found = uncertainty.bootstrap_mean(first, **options)
    assert [found.low, found.high] == pytest.approx(official["mean"], abs=1e-12)
    rows = [list(enumerate(values.tolist())) for values in (first, second)]
    found = uncertainty.paired_difference(*rows, level=0.9, **options)
    assert [found.low, found.high] == pytest.approx(official["difference"], abs=1e-12)
    assert found.mean == pytest.approx(second.mean() - first.mean(), abs=1e-12)
