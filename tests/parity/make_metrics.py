"""Makes tests/parity/data/metrics.json: what the official scorers say of metric_cases.py.

    pip install scikit-learn scipy torch jax editdistance
    python tests/parity/make_metrics.py FOLDER

FOLDER holds clones of the official repositories, as `git clone` names them: VQA (GT-Vision-Lab),
POPE (AoiDragon), Hallucination (LisaAnne), pix2struct, big_vision (google-research), dino
(facebookresearch) and CLIP_benchmark (LAION-AI). Their code is run, not copied: only what it
computed is stored, with the commits. Two of the scripts are for Python 2, so their print statements
are left out; NLTK and pattern, which only cut texts into words, are replaced by `str.split`.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import editdistance
import jax
import metric_cases as cases
import numpy as np
import scipy.stats
import torch
from sklearn import linear_model, metrics, neighbors

OUT = Path(__file__).parent / "data/metrics.json"
REPOSITORIES = (
    "VQA", "POPE", "Hallucination", "pix2struct", "big_vision", "dino", "CLIP_benchmark"
)  # fmt: skip
PACKAGES = ("numpy", "scikit-learn", "scipy", "torch", "jax", "editdistance")


def python3(source: str) -> str:
    """Source of Python 2 whose only trouble are print statements of one line."""
    return re.sub(r"^(\s*)print [^(].*$", r"\1pass", source.expandtabs(8), flags=re.M)


def plain(number: float) -> float | int:
    """A number as JSON writes it shortest."""
    return int(number) if number == int(number) else round(number, 9)


def part(path: Path, *names: str, **given: Any) -> dict[str, Any]:
    """The named functions and classes of a source file, without running the rest of it."""
    tree = ast.parse(python3(path.read_text()))
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    scope: dict[str, Any] = {"__name__": path.stem, **given}
    exec(compile(tree, str(path), "exec"), scope)
    return scope


def vqa(folder: Path) -> list[float]:
    path = folder / "VQA/PythonEvaluationTools/vqaEvaluation/vqaEval.py"
    scope = part(path, "VQAEval", sys=sys, re=re)
    asked, given = {}, {}
    for i, (answer, people) in enumerate(cases.questions()):
        answers = [{"answer": text, "answer_id": n} for n, text in enumerate(people)]
        asked[i] = {"answers": answers, "question_type": "any", "answer_type": "any"}
        given[i] = {"answer": answer}
    truth = types.SimpleNamespace(qa=asked, getQuesIds=lambda: list(asked))
    scorer = scope["VQAEval"](truth, types.SimpleNamespace(qa=given), n=9)
    with contextlib.redirect_stdout(io.StringIO()):
        scorer.evaluate()
    return [plain(scorer.evalQA[i]) for i in asked]


def relaxed(folder: Path) -> list[int]:
    path = folder / "pix2struct/pix2struct/metrics.py"
    scope = part(path, "relaxed_correctness", Optional=object, Any=Any)
    return [int(scope["relaxed_correctness"](*pair)) for pair in cases.number_pairs()]


def anls(folder: Path) -> list[float]:
    path = folder / "pix2struct/pix2struct/metrics.py"
    scope = part(path, "anls_metric", editdistance=editdistance)
    return [plain(scope["anls_metric"](*pair)) for pair in cases.lowered_pairs()]


def pope(folder: Path) -> dict[str, float]:
    answers, labels = cases.polls()
    source = (folder / "POPE/evaluate.py").read_text()
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as tmp, contextlib.redirect_stdout(printed):
        for key, name, values in (("answer", "ans", answers), ("label", "label", labels)):
            (Path(tmp) / name).write_text("".join(json.dumps({key: v}) + "\n" for v in values))
            source = source.replace(f"{name}_file = ''", f"{name}_file = {str(Path(tmp) / name)!r}")
        exec(compile(source, "evaluate.py", "exec"), {})
    rows = re.findall(r"^([A-Z][\w ]*): (.*)$", printed.getvalue(), re.M)
    return {name: float(value) for name, value in rows}


def chair(folder: Path) -> dict[str, Any]:
    path = folder / "Hallucination/utils/chair.py"
    split = types.SimpleNamespace(word_tokenize=str.split)
    lines = "\n".join(cases.SYNONYMS)
    scope = part(
        path,
        "CHAIR",
        nltk=split,
        singularize=lambda word: word,
        sys=sys,
        json=json,
        open=lambda name: io.StringIO(lines),
    )
    texts, present = cases.captions()
    scorer = scope["CHAIR"](range(len(texts)), "")
    scorer.imid_to_objects = dict(enumerate(present))
    names = ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "CIDEr", "SPICE", "ROUGE_L"]
    rows = [
        {"caption": text, "image_id": i, **dict.fromkeys(names, 0)} for i, text in enumerate(texts)
    ]
    scorer.caps, scorer.metrics = rows, dict.fromkeys(names, 0)
    scorer._load_generated_captions_into_evaluator = lambda file: None
    found = scorer.compute_chair("")
    return {
        "CHAIRs": found["overall_metrics"]["CHAIRs"],
        "CHAIRi": found["overall_metrics"]["CHAIRi"],
        "objects": [" ".join(scorer.caption_to_words(text)[1]) for text in texts],
    }


def classification(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for ties in (False, True):
        scores, labels = cases.scored(11, ties=ties)
        of_class = list(zip(scores.T, labels.T, strict=True))
        ap = [metrics.average_precision_score(y, s) for s, y in of_class]
        area = [metrics.roc_auc_score(y, s) for s, y in of_class]
        found[f"ties_{ties}"] = {"ap": ap, "auroc": area}
    path = folder / "CLIP_benchmark/clip_benchmark/metrics/zeroshot_classification.py"
    scope = part(path, "average_precision_per_class", torch=torch)
    scores, labels = cases.scored(11, ties=False)
    labels[:, 2] = False
    of_class = scope["average_precision_per_class"](torch.tensor(scores), torch.tensor(labels))
    found["clip_benchmark_map"] = float(of_class.mean())
    given, truth = cases.classified(12)
    for average in ("macro", "micro", "weighted"):
        found[f"f1_{average}"] = metrics.f1_score(truth, given, average=average)
    found["balanced_accuracy"] = metrics.balanced_accuracy_score(truth, given)
    logits, labels = cases.scored(13, ties=False)
    found["top_2"] = metrics.top_k_accuracy_score(labels.argmax(1), logits, k=2, labels=range(6))
    return found


def retrieval(folder: Path) -> dict[str, Any]:
    path = folder / "CLIP_benchmark/clip_benchmark/metrics/zeroshot_retrieval.py"
    recall_at_k = part(path, "recall_at_k", torch=torch)["recall_at_k"]
    texts, images, owner = cases.embeddings()
    scores = torch.tensor(texts @ images.T)
    positives = torch.zeros_like(scores, dtype=bool)
    positives[torch.arange(len(scores)), owner] = True
    found: dict[str, Any] = {}
    for name, s, y in (("images", scores, positives), ("texts", scores.T, positives.T)):
        for k in (1, 5, 10):
            shares = recall_at_k(s, y.contiguous(), k)
            found[f"{name}_share@{k}"] = float(shares.double().mean())
            found[f"{name}_hits@{k}"] = float((shares > 0).double().mean())
        ap = [metrics.average_precision_score(b, a) for a, b in zip(s, y, strict=True)]
        found[f"{name}_map"] = float(np.mean(ap))
    return found


def probes(folder: Path) -> dict[str, Any]:
    x, y, x_test, y_test = cases.features()
    found: dict[str, Any] = {}
    for c in cases.STRENGTHS:
        model = linear_model.LogisticRegression(C=c, tol=1e-10, max_iter=10_000)
        model.fit(x.astype(np.float64), y)
        found[f"logistic_{c}"] = {
            "weights": np.round(model.coef_.T, 6).tolist(),
            "bias": np.round(model.intercept_, 6).tolist(),
            "accuracy": model.score(x_test, y_test),
        }
    for k in cases.NEIGHBOURS:
        model = neighbors.KNeighborsClassifier(k, metric="cosine").fit(x, y)
        found[f"knn_{k}"] = "".join(map(str, model.predict(x_test)))
    scope = part(folder / "dino/eval_knn.py", "knn_classifier", torch=torch, nn=torch.nn)
    unit = (torch.nn.functional.normalize(torch.tensor(a), dim=1) for a in (x, x_test))
    left, right = unit
    for k in cases.NEIGHBOURS:
        args = left, torch.tensor(y), right, torch.tensor(y_test), k, 0.07
        found[f"dino_{k}"] = list(scope["knn_classifier"](*args, num_classes=6))
    utils = types.SimpleNamespace(jit_cpu=lambda **_: lambda f: f, put_cpu=lambda value: value)
    scope = part(
        folder / "big_vision/big_vision/evaluators/fewshot_lsr.py",
        "_precompute_cache",
        "_eig_fewshot_acc_fn",
        "Evaluator",
        u=utils,
        jax=jax,
        jnp=jax.numpy,
        np=np,
        BIAS_CONSTANT=100.0,
    )
    for l2 in cases.RIDGES:
        fake = types.SimpleNamespace(_repr={"": (x, y, x_test, y_test, 6)}, l2_reg=l2)
        fake.shots = cases.SHOTS
        measure = scope["Evaluator"].compute_fewshot_metrics
        rows = [measure(fake, None, seed, "", "", "") for seed in range(3)]
        found[f"few_shot_{l2}"] = [[float(row[shot]) for shot in cases.SHOTS] for row in rows]
    return found


def bootstrap(folder: Path) -> dict[str, list[float]]:
    first, second, _ = cases.clustered()
    found = {}
    for name, values, level in (("mean", first, 0.95), ("difference", second - first, 0.9)):
        interval = scipy.stats.bootstrap(
            (values,),
            np.mean,
            confidence_level=level,
            n_resamples=5000,
            method="percentile",
            rng=np.random.default_rng(3),
        ).confidence_interval
        found[name] = [float(interval.low), float(interval.high)]
    return found


PARTS = {
    "vqa_accuracy": vqa,
    "relaxed_accuracy": relaxed,
    "anls": anls,
    "pope": pope,
    "chair": chair,
    "classification": classification,
    "retrieval": retrieval,
    "probes": probes,
    "bootstrap": bootstrap,
}


def main() -> None:
    folder = Path(sys.argv[1])
    commits = {
        name: subprocess.run(
            ["git", "-C", str(folder / name), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in REPOSITORIES
    }
    packages = {name: version(name) for name in PACKAGES}
    found = {name: made(folder) for name, made in PARTS.items()}
    # A line for each metric, so that a difference shows which.
    rows = [
        f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}"
        for name, value in {"commits": commits, "packages": packages, **found}.items()
    ]
    OUT.write_text("{" + ",\n".join(rows) + "}\n")


if __name__ == "__main__":
    main()
