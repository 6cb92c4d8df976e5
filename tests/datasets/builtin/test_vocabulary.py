"""The built-in tokenizer equals the one that its script trains."""

from vljax.data.tokenizers import HuggingFace
from vljax.datasets.builtin.vocabulary import FILE, HERE, train


def test_the_script_makes_the_committed_file():
    assert train(HERE / "items.jsonl", 2048) == FILE.read_text()


def test_unseen_characters_are_encoded():
    tokenizer = HuggingFace(str(FILE), context_length=32).load()
    assert tokenizer.vocab_size == 2048
    ids, mask = tokenizer(["an unseen wörd 🙂", ""])
    assert ids[0, mask.sum(axis=1)[0] - 1] == 1  # the end token
    assert ids[1].tolist() == [1] + [0] * 31
    assert mask.sum(axis=1).tolist()[1] == 1
