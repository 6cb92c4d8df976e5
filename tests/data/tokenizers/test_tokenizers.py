import dataclasses
import io
import json
import pickle
import re

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, processors, trainers

from vljax.config import UserError, decode, validate
from vljax.data.tokenizers import Clip, HuggingFace, SentencePiece, Tokenizer, load_tokenizer
from vljax.recipes import BUILTIN_VOCABULARY

CORPUS = [
    "a photo of a cat",
    "a photo of a dog on the beach",
    "two dogs and three cats play",
    "the quick brown fox jumps over the lazy dog",
] * 20


@pytest.fixture(scope="module")
def huggingface_path(tmp_path_factory):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    path = tmp_path_factory.mktemp("huggingface") / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def sentencepiece_path(tmp_path_factory):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=36,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("sentencepiece") / "spiece.model"
    path.write_bytes(model.getvalue())
    return str(path)


def real(ids, mask):
    return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]


# Ids that open_clip's SimpleTokenizer and transformers' CLIPTokenizer give.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("a diagram", [320, 22697]),
        ("code editor with syntax highlighting", [3217, 7661, 593, 3758, 3879, 17344]),
        ("mobileclip", [9451, 944, 8546]),
        ("hatbox", [3447, 2063]),
        ("hat box", [3801, 2063]),
        ("Hello,   WORLD!", [3306, 267, 1002, 256]),
        ("it's a cat's toy, running   fast", [585, 568, 320, 2368, 568, 5988, 267, 2761, 1953]),
        ("I can't believe it's not butter", [328, 753, 713, 2649, 585, 568, 783, 6952]),
        ("they're working on it", [889, 982, 1699, 525, 585]),
        ("birthday cake 2024", [1166, 2972, 273, 271, 273, 275]),
        ("email: user@example.com", [4462, 281, 7031, 287, 6228, 269, 2464]),
        ("!!!", [995]),
        ("café", [15304]),
        ("🐶", [10631]),
        ("", []),
    ],
)
def test_clip_ids_are_the_reference_ids(text, expected):
    ids, mask = Clip().load()([text])
    assert real(ids, mask) == [[49406, *expected, 49407]]
    assert ids.shape == (1, 77)
    assert (ids[0, len(expected) + 2 :] == 0).all()
    assert (ids.dtype, mask.dtype) == (np.int32, bool)


def test_clip_keeps_its_end_token_when_a_text_is_cut():
    ids, mask = Clip(context_length=5).load()(["a photo of a cat", "a"])
    assert ids.tolist() == [[49406, 320, 1125, 539, 49407], [49406, 320, 49407, 0, 0]]
    assert mask.sum(axis=1).tolist() == [5, 3]


def test_clip_masks_by_length_since_the_padding_id_is_also_a_token():
    ids, mask = Clip().load()(["!a"])
    assert real(ids, mask) == [[49406, 256, 320, 49407]]
    ids, mask = Clip().load()(["!%"])  # '!' that does not end a word is id 0
    assert real(ids, mask)[0][0:2] == [49406, 0]
    assert int(mask.sum()) == 4


def test_clip_has_the_published_vocabulary_size():
    assert Clip().load().vocab_size == 49408


def test_huggingface_equals_the_library(huggingface_path):
    reference = tokenizers.Tokenizer.from_file(huggingface_path)
    reference.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    reference.enable_padding(length=24, pad_id=0, pad_token="<pad>")
    loaded = HuggingFace(
        huggingface_path, context_length=24, bos_token="<s>", cleaning="none"
    ).load()
    texts = ["a photo of a cat", "Unseen Wörds 123!", "", "日本"]
    ids, mask = loaded(texts)
    expected = reference.encode_batch(texts)
    assert ids.tolist() == [e.ids for e in expected]
    assert mask.tolist() == [[bool(m) for m in e.attention_mask] for e in expected]
    assert loaded.vocab_size == reference.get_vocab_size()


def test_huggingface_ignores_truncation_and_padding_of_the_file(huggingface_path, tmp_path):
    tokenizer = tokenizers.Tokenizer.from_file(huggingface_path)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    path = str(tmp_path / "tokenizer.json")
    tokenizer.save(path)
    texts = ["a photo of a dog on the beach"]
    expected = HuggingFace(huggingface_path).load()(texts)
    assert np.array_equal(HuggingFace(path).load()(texts), expected)


def test_huggingface_keeps_eos_when_cut(huggingface_path):
    loaded = HuggingFace(huggingface_path, context_length=4).load()
    ids, mask = loaded(["the quick brown fox jumps"])
    assert ids[0, -1] == 2
    assert mask.all()


def test_huggingface_suggests_a_token_for_an_unknown_one(huggingface_path):
    with pytest.raises(
        UserError, match=r"pad_token: .* has no token '<pda>'; did you mean '<pad>'"
    ):
        HuggingFace(huggingface_path, pad_token="<pda>").load()


def test_sentencepiece_equals_the_library_with_sticky_eos(sentencepiece_path):
    reference = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_path)
    loaded = SentencePiece(sentencepiece_path, context_length=12, cleaning="none").load()
    texts = ["a cat", "the quick brown fox jumps over the lazy dog", ""]
    ids, mask = loaded(texts)
    for text, row, keep in zip(texts, ids.tolist(), mask.tolist(), strict=True):
        # big_vision, pp/ops_text.py, example 4: eos="sticky", pad_value=1.
        whole = [*reference.encode(text), 1]
        expected = [*whole[:11], 1] if len(whole) > 12 else whole
        assert row == expected + [1] * (12 - len(expected))
        assert sum(keep) == len(expected)
    assert loaded.vocab_size == 36


def test_sentencepiece_pads_with_the_given_id(sentencepiece_path):
    ids, mask = SentencePiece(sentencepiece_path, context_length=8, pad_id=0).load()([""])
    assert ids.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0]]
    assert mask.tolist() == [[True] + [False] * 7]
    with pytest.raises(UserError, match="pad_id: 99 is outside the vocabulary of 36"):
        SentencePiece(sentencepiece_path, pad_id=99).load()


@pytest.fixture(params=["clip", "huggingface", "sentencepiece"])
def config(request):
    if request.param == "clip":
        return Clip(context_length=9, cleaning="lower")
    path = request.getfixturevalue(f"{request.param}_path")
    kind = {"huggingface": HuggingFace, "sentencepiece": SentencePiece}[request.param]
    return kind(path, context_length=9, cleaning="lower")


def test_the_files_rebuild_the_tokenizer_elsewhere(config, tmp_path):
    loaded = config.load()
    for name, content in loaded.files().items():
        (tmp_path / name).write_bytes(content)
    texts = ["A Photo of a CAT", "", "dogs, dogs!"]
    again = load_tokenizer(str(tmp_path))
    assert np.array_equal(again(texts), loaded(texts))
    assert again.vocab_size == loaded.vocab_size
    assert again.files() == loaded.files()
    path = getattr(config, "path", None)
    if path is not None:
        assert path.encode() not in loaded.files()["config.json"]


def test_a_loaded_tokenizer_can_be_pickled(config):
    loaded = config.load()
    assert np.array_equal(pickle.loads(pickle.dumps(loaded))(["a cat"]), loaded(["a cat"]))


def test_cleaning_comes_before_the_ids(huggingface_path):
    shouted, plain = ["A  CAT_photo"], ["a cat photo"]
    siglip = HuggingFace(huggingface_path, cleaning="siglip").load()
    as_is = HuggingFace(huggingface_path, cleaning="none").load()
    assert np.array_equal(siglip(shouted), as_is(plain))
    assert not np.array_equal(as_is(shouted), as_is(plain))


def test_truncation_may_cut_the_end_token(sentencepiece_path):
    # big_vision, pp/ops_text.py, example 2: eos="yes".
    reference = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_path)
    loaded = SentencePiece(
        sentencepiece_path, context_length=4, truncation="cut", pad_id=0, cleaning="none"
    ).load()
    cat, fox = reference.encode("a"), reference.encode("the quick brown fox")
    assert len(cat) <= 2
    ids, mask = loaded(["a", "the quick brown fox"])
    assert ids.tolist() == [[*cat, 1, *[0] * (3 - len(cat))], fox[:4]]
    assert mask.sum(axis=1).tolist() == [len(cat) + 1, 4]
    assert not loaded.config.always_ends


def test_the_end_token_is_optional(sentencepiece_path, huggingface_path):
    for config in (
        SentencePiece(sentencepiece_path, context_length=6, add_eos=False, cleaning="none"),
        HuggingFace(huggingface_path, context_length=6, eos_token=None, cleaning="none"),
    ):
        loaded = config.load()
        ids, mask = loaded(["", "the quick brown fox jumps"])
        assert mask.sum(axis=1).tolist() == [0, 6]
        assert ids[0].tolist() == [loaded.special.pad] * 6


def test_a_text_can_begin_with_the_begin_token_of_the_model(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=36, minloglevel=2
    )
    path = tmp_path / "spiece.model"
    path.write_bytes(model.getvalue())
    reference = sentencepiece.SentencePieceProcessor(
        model_file=str(path), add_bos=True, add_eos=True
    )
    config = SentencePiece(str(path), context_length=12, add_bos=True, cleaning="none")
    ids, mask = config.load()(["a cat"])
    assert real(ids, mask) == [reference.encode("a cat")]
    with pytest.raises(
        UserError, match=r"pad_id: .* no padding token; set it to an id .* such as 2"
    ):
        SentencePiece(str(path), pad_id=None).load()


def test_padding_on_the_left(config):
    left = dataclasses.replace(config, padding_side="left").load()
    ids, mask = config.load()(["a cat", ""])
    shifted, where = left(["a cat", ""])
    assert real(shifted, where) == real(ids, mask)
    assert (np.diff(where.astype(int), axis=1) >= 0).all()
    assert (shifted[~where] == left.special.pad).all()


def test_a_context_has_room_for_the_special_tokens(sentencepiece_path):
    least = "context_length: must be at least"
    for config, message in (
        (Clip(context_length=2), f"{least} 3, for bos and eos beside the text, got 2"),
        (SentencePiece(context_length=1), f"{least} 2, for eos beside the text, got 1"),
        (HuggingFace(context_length=0, eos_token=None), f"{least} 1, got 0"),
    ):
        with pytest.raises(UserError) as caught:
            validate(config)
        assert str(caught.value) == message
    assert validate(SentencePiece(sentencepiece_path, context_length=2)).load()(["a"])[1].all()


def test_a_model_without_the_requested_tokens_is_an_error(sentencepiece_path, tmp_path):
    with pytest.raises(UserError, match=r"add_bos: .* no begin-of-sentence token; set it to False"):
        SentencePiece(sentencepiece_path, add_bos=True).load()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=36, eos_id=-1, minloglevel=2
    )
    path = tmp_path / "endless.model"
    path.write_bytes(model.getvalue())
    with pytest.raises(UserError, match=r"add_eos: .* no end-of-sentence token; set it to False"):
        SentencePiece(str(path)).load()


def test_vocabulary_size_counts_gaps_between_ids(tmp_path):
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "cat": 999}, "<pad>"))
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    assert HuggingFace(str(path)).load().vocab_size == 1000


def test_lone_surrogates_become_replacement_characters(config):
    loaded = config.load()
    broken, whole = loaded(["a \ud83d cat", "\ud83d\ude00"]), loaded(["a \ufffd cat", "😀"])
    assert np.array_equal(broken, whole)


def test_clip_ids_of_capitals_are_the_reference_ids():
    # open_clip: SimpleTokenizer(clean="whitespace").
    loaded = Clip(cleaning="whitespace").load()
    expected = [288, 47, 606, 531, 267, 585, 6, 306, 129, 379, 6, 129, 379]
    assert real(*loaded(["A Photo, it'S ſ'ſ"])) == [[49406, *expected, 49407]]


@pytest.mark.parametrize("kind", [HuggingFace, SentencePiece])
def test_unset_missing_and_broken_files(kind, tmp_path):
    with pytest.raises(UserError, match=r"data\.tokenizers\.text\.path: unset"):
        kind().load()
    with pytest.raises(UserError, match="no such file or folder"):
        validate(kind(str(tmp_path / "lost")))
    for content in (b"", b"not a vocabulary"):
        broken = tmp_path / "broken"
        broken.write_bytes(content)
        with pytest.raises(UserError, match="broken: not a") as caught:
            kind(str(broken)).load()
        assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_named(huggingface_path, sentencepiece_path, tmp_path):
    for kind, path, message in (
        (
            SentencePiece,
            huggingface_path,
            "a tokenizer.json; use --data.tokenizers.text huggingface",
        ),
        (
            HuggingFace,
            sentencepiece_path,
            "a SentencePiece model; use --data.tokenizers.text sentence",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(f"it looks like {message}")):
            kind(path).load()
    for content, message in (
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"\x1f\x8b\x08rest", "it is compressed; unpack it"),
        (b'{"tokenizer_class": "T5Tokenizer"}', "a tokenizer_config.json; give the tokenizer.json"),
        (b'{"a": 1}', "JSON without a model"),
        (b'{"model": {', "JSON that is cut or damaged"),
    ):
        path = tmp_path / "file"
        path.write_bytes(content)
        for kind in (HuggingFace, SentencePiece):
            with pytest.raises(UserError, match=re.escape(message)) as caught:
                kind(str(path)).load()
            assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        load_tokenizer(str(tmp_path))
    for content in ("[]", "3", '{"type": "huggingface", "path": null}', '{"type": "clip", "x": 1}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError):
            load_tokenizer(str(tmp_path))


def test_tokenizers_are_found_by_name():
    assert decode(Tokenizer, {"type": "clip"}) == Clip()
    with pytest.raises(UserError, match="did you mean 'sentencepiece'"):
        decode(Tokenizer, {"type": "sentencepeice"})


@pytest.mark.parametrize("kind", ["WordPiece", "WordLevel", "Unigram", "BPE"])
def test_an_unknown_token_that_the_vocabulary_lacks_is_found_on_loading(kind, tmp_path):
    """Else the library raises an exception at the first unknown word, in the middle of a run."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    def saved(unknown):
        words = ["picture", "number", "a", "the", *(["[UNK]"] if unknown else [])]
        known = {word: i for i, word in enumerate(words)}
        made = {
            "WordPiece": lambda: models.WordPiece(known, unk_token="[UNK]"),
            "WordLevel": lambda: models.WordLevel(known, unk_token="[UNK]"),
            "Unigram": lambda: models.Unigram(
                [(word, -1.0) for word in words], 4 if unknown else None, False
            ),
            "BPE": lambda: models.BPE(known, [], unk_token="[UNK]"),
        }[kind]()
        tokenizer = Tokenizer(made)
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.add_special_tokens(["<pad>", "</s>"])
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        return HuggingFace(str(tmp_path / "tokenizer.json"), context_length=8)

    with pytest.raises(UserError, match=r"text\.path: .*cannot encode text with unknown"):
        saved(unknown=False).load()
    assert saved(unknown=True).load()(["a zebra"])[1].sum() >= 3


def test_half_an_emoji_is_not_a_token(huggingface_path):
    with pytest.raises(UserError, match=r"eos_token: .* has no token"):
        HuggingFace(huggingface_path, eos_token="\ud83d").load()


def test_pieces_that_are_not_utf_8_are_an_error(sentencepiece_path, tmp_path):
    with open(sentencepiece_path, "rb") as file:
        model = file.read()
    path = tmp_path / "damaged.model"
    path.write_bytes(model.replace("\u2581".encode(), b"\xe2\x96\xff", 1))
    with pytest.raises(UserError, match="not a SentencePiece model"):
        SentencePiece(str(path)).load()


@pytest.mark.parametrize(
    ("length", "message"), [(1, "must be at least 2"), (2**62, "must be at most 1,048,576")]
)
def test_a_saved_tokenizer_with_an_impossible_length_is_an_error(tmp_path, length, message):
    tokenizer = HuggingFace(str(BUILTIN_VOCABULARY)).load()
    for name, content in tokenizer.files().items():
        (tmp_path / name).write_bytes(content)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**saved, "context_length": length}))
    with pytest.raises(UserError, match=f"config.json: context_length: {message}"):
        load_tokenizer(str(tmp_path))
