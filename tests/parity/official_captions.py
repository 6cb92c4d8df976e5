"""The official caption scorers of pycocoevalcap, and its two Java programs."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tempfile
from pathlib import Path

import pycocoevalcap.bleu.bleu
import pycocoevalcap.cider.cider
import pycocoevalcap.rouge.rouge
from pycocoevalcap.tokenizer import ptbtokenizer

FOLDER = Path(ptbtokenizer.__file__).parents[1]


def tokenize(captions: list[str]) -> list[str]:
    """The captions as the official scorer passes them on: tokens joined by spaces."""
    given = {index: [{"caption": text}] for index, text in enumerate(captions)}
    with contextlib.redirect_stderr(io.StringIO()):
        found = ptbtokenizer.PTBTokenizer().tokenize(given)
    return [found[index][0] for index in given]


def separate_tokens(captions: list[str]) -> list[list[str]]:
    """Tokens of each caption, with a line between them so that none sees the next."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "captions"
        file.write_text("".join(f"{text}\nx\n" for text in captions), "utf-8")
        program = [
            "java",
            "-cp",
            str(FOLDER / "tokenizer" / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR),
        ]
        program += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
        done = subprocess.run([*program, str(file)], capture_output=True, check=True)
    lines = done.stdout.decode("utf-8").split("\n")[::2][: len(captions)]
    return [
        [t for t in line.rstrip().split(" ") if t and t not in ptbtokenizer.PUNCTUATIONS]
        for line in lines
    ]


def scores(candidates: list[str], references: list[list[str]], only: str = "") -> dict[str, list]:
    """`{metric: [corpus, examples]}` of joined tokens, of all metrics but METEOR, or of one."""
    ours = {index: [text] for index, text in enumerate(candidates)}
    theirs = dict(enumerate(references))
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        if only in ("", "bleu"):
            bleu, each = pycocoevalcap.bleu.bleu.Bleu(4).compute_score(theirs, ours)
            for n in range(4):
                found[f"BLEU-{n + 1}"] = [float(bleu[n]), [float(x) for x in each[n]]]
        if only in ("", "rouge_l"):
            score, each = pycocoevalcap.rouge.rouge.Rouge().compute_score(theirs, ours)
            found["ROUGE-L"] = [float(score), each.tolist()]
        if only in ("", "cider_d"):
            score, each = pycocoevalcap.cider.cider.Cider().compute_score(theirs, ours)
            found["CIDEr-D"] = [float(score), each.tolist()]
    if only == "meteor":
        found["METEOR"] = list(meteor(candidates, references))
    return found


def meteor(
    candidates: list[str], references: list[list[str]], *options: str
) -> tuple[float, list[float]]:
    """METEOR of the set and of each example; `options` are further ones of the program."""
    program = ["java", "-jar", "-Xmx2G", str(FOLDER / "meteor" / "meteor-1.5.jar"), "-", "-"]
    program += ["-stdio", "-l", "en", "-norm", *options]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:

        def ask(line: str) -> str:
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
            return process.stdout.readline().decode().strip()

        stats = []
        for text, several in zip(candidates, references, strict=True):
            text = text.replace("|||", "").replace("  ", " ")
            stats.append(ask(" ||| ".join(["SCORE", *several, text])))
        first = ask(" ||| ".join(["EVAL", *stats]))
        rest = [process.stdout.readline().decode().strip() for _ in stats]
        process.stdin.close()
    *examples, total = map(float, [first, *rest])
    return total, examples
