"""Every loss once more, in float64 loops written from the formulas of the papers and of the released code.

Views are 0 and 1; a view is an array (N, D). Queues are laid out as released: `queue[v]` (D, K) holds in its columns
the keys *of* view v, so that a query of view v meets `queue[1 - v]`.
"""

from math import exp, log, sqrt

import numpy as np


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def norm(a):
    return sqrt(dot(a, a))


def unit(rows):
    return np.array([[float(x) / max(norm(row), 1e-12) for x in row] for row in rows])


def unit_columns(columns):
    return unit(np.asarray(columns).T).T


def cos(a, b):
    return dot(a, b) / (max(norm(a), 1e-8) * max(norm(b), 1e-8))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def mean_cos(a, b):
    return mean(cos(x, y) for x, y in zip(a, b, strict=True))


def mean_square(a, b):
    return mean((float(x) - float(y)) ** 2 for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


# --- learning ---------------------------------------------------------------------------------------------------------


def info_nce(query, key, negatives, temperature):
    """query, key: (N, D) unit rows; negatives: (D, K) unit columns."""
    total = 0.0
    for q, k in zip(query, key, strict=True):
        positive = exp(dot(q, k) / temperature)
        others = sum(exp(dot(q, column) / temperature) for column in negatives.T)
        total += -log(positive / (positive + others))
    return total / len(query)


def moco(z, k, queue, temperature):
    q, k = [unit(view) for view in z], [unit(view) for view in k]
    return mean(info_nce(q[v], k[1 - v], queue[1 - v], temperature) for v in (0, 1))


def simclr(z, temperature):
    rows, count = unit(np.concatenate(z)), len(z[0])
    total = 0.0
    for i, anchor in enumerate(rows):
        partner = rows[(i + count) % (2 * count)]
        others = sum(exp(dot(anchor, rows[j]) / temperature) for j in range(2 * count) if j != i)
        total += -dot(anchor, partner) / temperature + log(others)
    return total / (2 * count)


def byol(u, k):
    return sum(2 - 2 * mean_cos(u[v], k[1 - v]) for v in (0, 1))


def simsiam(u, z):
    return -mean(mean_cos(u[v], z[1 - v]) for v in (0, 1))


def barlow(a, b, off_diagonal, scale):
    count, width = a.shape

    def standard(x):
        columns = []
        for column in x.T:
            centre = mean(float(value) for value in column)
            variance = mean((float(value) - centre) ** 2 for value in column)
            columns.append([(float(value) - centre) / sqrt(variance + 1e-5) for value in column])
        return columns

    na, nb = standard(a), standard(b)
    total = 0.0
    for i in range(width):
        for j in range(width):
            c = dot(na[i], nb[j]) / count
            total += (c - 1) ** 2 if i == j else off_diagonal * c**2
    return scale * total


def vicreg(z, invariance, variance, covariance):
    count, width = z[0].shape
    hinges = squares = 0.0
    for view in z:
        centred = [[float(value) - mean(float(x) for x in column) for value in column] for column in view.T]
        for i in range(width):
            for j in range(width):
                c = dot(centred[i], centred[j]) / (count - 1)
                if i == j:
                    hinges += max(0.0, 1 - sqrt(c + 1e-4)) / width
                else:
                    squares += c**2 / width
    return invariance * mean_square(*z) + variance * hinges + covariance * squares


def softmax(scores):
    total = sum(exp(score) for score in scores)
    return [exp(score) / total for score in scores]


def cross_entropy(targets, logits):
    return mean(
        -sum(float(t) * log(p) for t, p in zip(row, softmax(scores), strict=True))
        for row, scores in zip(targets, logits, strict=True)
    )


def sinkhorn(scores, epsilon, iterations):
    """scores: (B, K); Q is (K, B): total 1, then in turns rows to 1/K and columns to 1/B, at last columns to 1."""
    count, width = scores.shape
    q = [[exp(float(scores[b][k]) / epsilon) for b in range(count)] for k in range(width)]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        q = [[x / sum(row) / width for x in row] for row in q]
        columns = [sum(row[b] for row in q) for b in range(count)]
        q = [[row[b] / columns[b] / count for b in range(count)] for row in q]
    return np.array([[row[b] * count for row in q] for b in range(count)])


def swav_of_scores(scores, known, temperature, epsilon, iterations):
    """scores, known: of the batch and of the queue, by view."""
    both = [np.concatenate([scores[v], known[v]]) for v in (0, 1)]
    assigned = [sinkhorn(view, epsilon, iterations)[: len(scores[0])] for view in both]
    return mean(cross_entropy(assigned[1 - v], scores[v] / temperature) for v in (0, 1))


def swav(z, queue, prototypes, temperature, epsilon, iterations):
    scores, known = ([rows @ prototypes.T for rows in views] for views in ([unit(view) for view in z], queue))
    return swav_of_scores(scores, known, temperature, epsilon, iterations)


# --- CaSSLe: distillation between p = g(z) and the frozen f -----------------------------------------------------------


def contrast(p, f, temperature):
    """Both directions, each a softmax over all 2N rows of the other network."""

    def one_way(anchors, others):
        total = 0.0
        for i, anchor in enumerate(anchors):
            everything = sum(exp(dot(anchor, other) / temperature) for other in others)
            total += -dot(anchor, others[i]) / temperature + log(everything)
        return total / len(anchors)

    a, b = unit(np.concatenate(p)), unit(np.concatenate(f))
    return (one_way(a, b) + one_way(b, a)) / 2


def predict(p, f):
    return mean(2 - 2 * mean_cos(p[v], f[v]) for v in (0, 1))


def predict_cosine(p, f):
    return mean(-mean_cos(p[v], f[v]) for v in (0, 1))


def predict_square(p, f):
    return mean(mean_square(p[v], f[v]) for v in (0, 1))


def decorrelate(p, f, off_diagonal, scale):
    return mean(barlow(p[v], f[v], off_diagonal, scale) for v in (0, 1))


def knowledge(student, f, prototypes, temperature):
    """student: scores (N, K) of the new prototypes, by view."""
    targets = [[softmax(row / temperature) for row in unit(view) @ prototypes.T] for view in f]
    return mean(cross_entropy(targets[v], student[v] / temperature) for v in (0, 1))


def hellinger(student, f, prototypes, temperature):
    total = 0.0
    for scores, view in zip(student, f, strict=True):
        for row, other in zip(scores / temperature, unit(view) @ prototypes.T / temperature, strict=True):
            roots = (sqrt(p * q) for p, q in zip(softmax(row), softmax(other), strict=True))
            total += (1 - sum(roots)) / (2 * len(scores))
    return total


# --- Sy-CON (PNR): the whole loss of a step ---------------------------------------------------------------------------


def sycon_moco(z, k, p, f, queue, queue2, temperature, distill_temperature, weight=1.0):
    q, k, p, f = ([unit(view) for view in views] for views in (z, k, p, f))
    total = 0.0
    for v in (0, 1):
        negatives = np.concatenate([queue[1 - v], queue2[1 - v]], axis=1)
        total += info_nce(q[v], k[1 - v], negatives, temperature) / 2
        total += weight * info_nce(p[v], f[v], negatives, distill_temperature) / 2
    return total


def sycon_simclr(z, p, f, temperature, distill_temperature, decoupled, weight=1.0):
    z, p, f = (unit(np.concatenate(views)) for views in (z, p, f))
    rows = len(z)
    plasticity = stability = 0.0
    for i in range(rows):
        denominator = 0.0
        for j in range(rows):
            if j != i:
                denominator += exp(dot(z[i], z[j]) / temperature) + exp(dot(z[i], f[j]) / temperature)
        plasticity += -dot(z[i], z[(i + rows // 2) % rows]) / temperature + log(denominator)
        denominator = 0.0 if decoupled else exp(dot(p[i], f[i]) / distill_temperature)
        for j in range(rows):
            if j != i:
                denominator += exp(dot(p[i], f[j]) / distill_temperature) + exp(dot(p[i], z[j]) / distill_temperature)
        stability += -dot(p[i], f[i]) / distill_temperature + log(denominator)
    return (plasticity + weight * stability) / rows


def sycon_byol(u, k, p, f, weight, repel):
    other_view = mean(2 - 2 * mean_cos(p[v], f[1 - v]) for v in (0, 1))
    return byol(u, k) + weight * predict(p, f) - repel * other_view


def sycon_simsiam(u, z, p, f, weight, repel):
    other_view = mean(-mean_cos(p[v], f[1 - v]) for v in (0, 1))
    return simsiam(u, z) + weight * predict_cosine(p, f) - repel * other_view


def sycon_barlow(z, p, f, off_diagonal, scale, weight, repel):
    base = barlow(z[0], z[1], off_diagonal, scale)
    other_view = mean(mean_cos(p[v], f[1 - v]) for v in (0, 1))
    return base + weight * decorrelate(p, f, off_diagonal, scale) + repel * other_view


def sycon_vicreg(z, p, f, invariance, variance, covariance, weight, repel):
    other_view = mean(mean_square(p[v], f[1 - v]) for v in (0, 1))
    return vicreg(z, invariance, variance, covariance) + weight * predict_square(p, f) - repel * other_view


def sycon_swav(base, p, f, frozen, distill_temperature, weight, repel):
    """base: the loss of SwAV itself."""
    other_view = hellinger(p, f[::-1], frozen, distill_temperature)
    return base + weight * knowledge(p, f, frozen, distill_temperature) - repel * other_view
