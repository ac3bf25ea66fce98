"""The neighbours that are found by folding long rows are those of one search through everything."""

import pytest
import torch
from torch.nn import functional as F

from bench.config import KnnProbe
from bench.evaluate.probes import FOLDS, PART, fit_knn


def expected(x, y, classes, config, test):
    """Scores by sorting all cosines of a test image."""
    cosine, index = (F.normalize(test, dim=1) @ F.normalize(x, dim=1).T).sort(1, descending=True)
    votes = (cosine / config.temperature).exp()[:, : config.k]
    return torch.stack([torch.bincount(y[i], v, classes) for i, v in zip(index[:, : config.k], votes, strict=True)])


def cloud(count, seed, width=8):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


# rows that fold without a rest, with the largest rest, just so, and not at all
@pytest.mark.parametrize("count", [FOLDS * 40, FOLDS * 41 - 1, FOLDS * 6 + 5, FOLDS * 5 + 3])
@pytest.mark.parametrize("k", [1, 5])
def test_folded_rows_lose_no_neighbour(count, k):
    x, test, config = cloud(count, 0), cloud(PART + 70, 1), KnnProbe(k, 0.5)
    y = torch.arange(count) % 7
    found = fit_knn(x, y, 7, config, 0)(test)
    wanted = expected(x, y, 7, config, test)
    torch.testing.assert_close(found / found.sum(1, keepdim=True), wanted / wanted.sum(1, keepdim=True))


def test_neighbours_are_found_wherever_they_lie():
    count = FOLDS * 30 + 7
    x, y = cloud(count, 0, width=64), torch.arange(count)
    scores = fit_knn(x, y, count, KnnProbe(1), 0)(x)
    assert scores.argmax(1).tolist() == y.tolist()


def test_all_neighbours_may_lie_in_one_column_of_folds():
    length = 50
    x = cloud(FOLDS * length, 0, width=64)
    column = torch.arange(FOLDS) * length + 3
    query = cloud(1, 5, width=64)
    x[column] = query + 0.01 * cloud(FOLDS, 6, width=64)
    y = torch.zeros(len(x), dtype=torch.long)
    y[column] = 1
    scores = fit_knn(x, y, 2, KnnProbe(k=FOLDS), 0)(query)
    assert scores[0, 0] == 0
