"""vljax's side of the comparison, against the whole matrix of similarities."""

import numpy as np

from benchmarks.retrieval_metrics import embeddings, of_vljax


def test_recall_equals_that_of_the_whole_matrix():
    text, image, owner = embeddings(60, 20, 8)
    found = of_vljax(text, image, owner)()
    near = text.astype(np.float64) @ image.T
    right = owner[:, None] == np.arange(20)
    for name, scores, positive in (("image", near, right), ("text", near.T, right.T)):
        for k in (1, 5, 10):
            best = np.argsort(-scores, axis=1)[:, :k]
            hits = np.take_along_axis(positive, best, axis=1).any(axis=1)
            assert found[f"{name}_retrieval_recall@{k}"] == hits.mean()
