import pytest

from tests.data.samples import write_jsonl
from vljax.config import UserError
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import HuggingFace
from vljax.data.tokenizers.train import SMALLEST_VOCABULARY, cleaned_captions, train_bpe

TEXTS = ["a photo of a cat", "a photo of a dog", "two dogs", "größe 日本 🐶"] * 5


def test_the_first_ids_are_special_and_all_bytes_are_there(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(train_bpe(TEXTS, 290))
    tokenizer = HuggingFace(str(path), context_length=16).load()
    assert (tokenizer.special.pad, tokenizer.special.eos) == (0, 1)
    assert tokenizer.vocab_size == 290
    ids, mask = tokenizer(["a photo of a cat", "\x00 ünseen ж"])
    assert int(mask[0].sum()) <= 7  # the words have become tokens, nearly all of them
    assert int(mask[1].sum()) == len("\x00 ünseen ж".encode()) + 2  # " " before it and </s>
    assert int(ids.max()) < 290


def test_the_order_of_the_texts_does_not_matter():
    assert train_bpe(TEXTS, 290) == train_bpe(reversed(TEXTS), 290)


def test_a_rare_pair_does_not_become_a_token():
    assert train_bpe(["zq"], 400, min_frequency=2).count("zq") == 0
    assert train_bpe(["zq"], 400, min_frequency=1).count("zq") > 0


def test_a_vocabulary_too_small_for_all_bytes_is_an_error():
    with pytest.raises(UserError, match=f"vocab_size: must be at least {SMALLEST_VOCABULARY}"):
        train_bpe(TEXTS, SMALLEST_VOCABULARY - 1)


def test_captions_are_cleaned_and_spread_over_the_data_set(tmp_path):
    rows = [{"captions": [f"Photo  {i}", " "]} for i in range(10)]
    records = JsonLines(write_jsonl(tmp_path, rows)).open()
    assert list(cleaned_captions(records, "lower")) == [[f"photo {i}"] for i in range(10)]
    assert list(cleaned_captions(records, "none", most=3)) == [
        ["Photo  0", " "],
        ["Photo  3", " "],
        ["Photo  6", " "],
    ]


def test_a_rejected_example_has_no_captions(tmp_path):
    rows = [{"caption": "a cat", "b": [[1]]}, {"caption": "a dog", "b": []}]
    records = JsonLines(write_jsonl(tmp_path, rows), boxes="b").open()
    assert list(cleaned_captions(records, "none")) == [[], ["a dog"]]
