"""Inputs of the metrics' reference outputs, made from seeds: the same here and in make_metrics.py.

Imports NumPy only, since make_metrics.py runs where vljax need not be installed.
"""

from __future__ import annotations

import random

import numpy as np

_WORDS = """
    a an the two ten none zero one dont cant Im youre somebody'd y'all'dve couldn'tve lets yes Yes
    no not No red-haired dog dogs, 1,000 3.5 .5
    5. U.S.A. ... @home it's its ß İstanbul café ٣,٤ 12% 0
    0.0 -1e3 nan 50% wifi/lan [x] (y) "q" {z} q? wow! a_b x=y 1+1 ` ; : \\ < > \t \n
"""


def texts(seed: int, count: int, longest: int = 5) -> list[str]:
    """Texts of words and marks that scorers treat in their own ways; some are empty."""
    draw, words = random.Random(seed), _WORDS.split(" ")
    return [
        draw.choice(["", " ", "\n"]).join(
            draw.choice(words) for _ in range(draw.randint(0, longest))
        )
        for _ in range(count)
    ]


def questions() -> list[tuple[str, list[str]]]:
    """An answer and those of ten people; answers recur, and in a quarter all people agree."""
    draw = random.Random(1)
    cases = []
    for i in range(3000):
        pool = texts(1000 + i, 4, longest=3)
        pool += [text.lower() for text in pool[:2]] + [text + " " for text in pool[:1]]
        people = [draw.choice(pool) for _ in range(10)]
        if i % 4 == 0:
            people = [people[0]] * draw.choice([10, 9]) + [people[0] + draw.choice(["", " ", "."])]
            people = people[:10]
        cases.append((draw.choice(pool), people))
    # More periods than re.sub was told to remove, and around that number.
    for periods in (31, 32, 33, 70):
        cases.append(("." * periods + "x", ["x"] * 9 + ["y"]))
        cases.append(("x", ["." * periods + "x"] * 9 + ["y"]))
    return cases


def number_pairs() -> list[tuple[str, str]]:
    """Reference and answer: numbers near 5 % of each other, percentages, texts."""
    draw = random.Random(2)
    numbers = ["0", "0.0", "100", "105", "105.1", "95", "94.9", "-100", "1", "100%", "1e2", "inf"]
    numbers += ["nan", "", "%", "Red", "red", "1,000", "50%", "0.5", "50%%", " 100 "]
    return [(draw.choice(numbers), draw.choice(numbers)) for _ in range(1500)]


def lowered_pairs() -> list[tuple[str, str]]:
    """Reference and answer, not empty, lower-cased and with single spaces."""
    draw = random.Random(8)
    pool = [" ".join(text.lower().split()) for text in texts(9, 200)]
    pool = [text for text in pool if text]
    pairs = [(draw.choice(pool), draw.choice(pool)) for _ in range(300)]
    for first, _ in list(pairs):  # near each other, and at exactly half the length
        kept = draw.randint(0, len(first))
        pairs += [(first, first[:kept].strip() or "x"), (first, first + "~" * len(first))]
    return pairs


def polls() -> tuple[list[str], list[str]]:
    """Answers to POPE's questions and their labels."""
    draw = random.Random(3)
    marks = "No not no NO Not yes Yes there is, no, no! nothing . .. I , see"
    words = marks.split(" ")
    answers = [" ".join(draw.choice(words) for _ in range(draw.randint(0, 6))) for _ in range(500)]
    return answers, [draw.choice(["yes", "no"]) for _ in answers]


SYNONYMS = [
    "person, man, baby, passenger, adult, rider",
    "bicycle, bike",
    "motorcycle,  motor bike, motor cycle",
    "dog, puppy, hot",
    "train, jet",
    "tie, bow",
    "chair, seat",
    "toilet",
    "wine glass, wine glas",
    "hot dog, frank",
    "bear",
    "teddy bear",
    "bike shop, bike",
    "traffic light, stop light",
]


def captions() -> tuple[list[str], list[set[str]]]:
    """Captions of known words, one an image, and the objects in each image."""
    draw = random.Random(4)
    words = ["a", "with", "street", "home", "plate", "glas"]
    words += sorted({word for line in SYNONYMS for word in line.replace(",", " ").split()})
    objects = [line.split(", ")[0] for line in SYNONYMS]
    made = [" ".join(draw.choice(words) for _ in range(draw.randint(1, 9))) for _ in range(400)]
    return made, [{*draw.sample(objects, draw.randint(0, 6))} for _ in made]


def scored(seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32[200, 6] and multi-hot labels bool[200, 6]; with `ties`, scores are coarse."""
    rng = np.random.default_rng(seed)
    labels = rng.random((200, 6)) < np.linspace(0.05, 0.6, 6)
    labels[0] = True
    scores = rng.normal(size=labels.shape) + labels
    if ties:
        scores = np.round(scores)
    return scores.astype(np.float32), labels


def classified(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true classes int[300], of 7; class 5 is never true and class 6 never given."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 3, 4, 6], 300, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05])
    given = np.where(rng.random(300) < 0.5, truth, rng.integers(0, 6, 300))
    return np.where(given == 6, 0, given), truth


def embeddings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts float32[600, 32], images float32[150, 32], and the image of each text: 1 to 9 each."""
    rng = np.random.default_rng(5)
    owner = np.sort(np.concatenate([np.arange(150), rng.integers(0, 150, 450)]))
    images = rng.normal(size=(150, 32))
    captions = images[owner] + 2.5 * rng.normal(size=(600, 32))
    images, captions = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, captions))
    return captions.astype(np.float32), images.astype(np.float32), owner


STRENGTHS, NEIGHBOURS, SHOTS, RIDGES = (0.01, 1.0, 100.0), (1, 5, 20), (1, 5, 10, 25), (1.0, 1024.0)


def features(
    *, train: int = 240, test: int = 300, classes: int = 6, width: int = 24
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features and labels of a training and a test split: overlapping clusters of uneven scale."""
    rng = np.random.default_rng(6)
    centres = rng.normal(size=(classes, width))
    labels = rng.integers(0, classes, train + test)
    scale = np.linspace(0.5, 3, width)
    values = (centres[labels] + 1.6 * rng.normal(size=(train + test, width))) * scale + 0.3
    x, y = values.astype(np.float32), labels.astype(np.int64)
    return x[:train], y[:train], x[train:], y[train:]


def clustered() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of two models float64[180] on the same questions, and the image of each question."""
    rng = np.random.default_rng(7)
    images = np.sort(rng.integers(0, 60, 180))
    shared = rng.normal(size=60)[images]
    first, second = (shared + rng.normal(size=180) > level for level in (0.0, -0.2))
    return first.astype(np.float64), second.astype(np.float64), images
