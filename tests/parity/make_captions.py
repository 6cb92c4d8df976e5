"""Makes tests/parity/data/captions.json: outputs of the official caption scorers.

apt-get install default-jre-headless
pip install pycocoevalcap==1.2
python -m tests.parity.make_captions
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.parity import official_captions as official
from tests.parity.caption_texts import SPECIAL, caption, corpus

FILE = Path(__file__).parent / "data" / "captions.json"
CORPORA = ((1, 1, 1), (2, 1, 5), (3, 30, 1), (4, 30, 5), (5, 40, 0))
# The program's own output has six decimal places or fewer.
EXACT_AND_STEM = ("-m", "exact stem", "-w", "1.0 0.6")


def main() -> None:
    draw = random.Random(0)
    captions = [*SPECIAL, *(caption(draw, special=0.5, longest=7) for _ in range(900))]
    tokens = official.separate_tokens(captions)
    sets = []
    for seed, examples, references in CORPORA:
        texts = corpus(seed, examples, references)
        flat = official.tokenize([text for row in texts["references"] for text in row])
        ours = official.tokenize(texts["candidates"])
        left = iter(flat)
        theirs = [[next(left) for _ in row] for row in texts["references"]]
        found = official.scores(ours, theirs)
        found["METEOR"] = official.meteor(ours, theirs)
        found["METEOR (exact, stem)"] = official.meteor(ours, theirs, *EXACT_AND_STEM)
        sets.append({**texts, "tokens": [ours, theirs], "scores": found})
    stored = {"captions": captions, "tokens": [" ".join(t) for t in tokens], "sets": sets}
    FILE.write_text(json.dumps(stored, ensure_ascii=False, separators=(",", ":")) + "\n", "utf-8")
    print(f"{FILE}: {len(captions)} captions, {len(sets)} sets, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
