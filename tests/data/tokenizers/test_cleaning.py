import html
import json
from pathlib import Path
from unittest.mock import patch

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vljax.data.tokenizers.cleaning import clean


# big_vision: evaluators/proj/image_text/prompt_engineering_test.py, without kept punctuation.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test_test", "test test"),
        ("test___test", "test test"),
        ("test", "test"),
        ("test.", "test"),
        (" test ", "test"),
        ("test\ntest", "test test"),
        ("test  test", "test test"),
        ("test {}", "test"),
        ("A Cat's Photo!", "a cats photo"),
        ("ÜBER—straße", "über—straße"),
    ],
)
def test_siglip(text, expected):
    assert clean(text, "siglip") == expected


# Results of `_clean_lower` of open_clip's src/open_clip/tokenizer.py.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A  Photo\tof\n a CAT ", "a photo of a cat"),
        ("fish &amp;amp; chips", "fish & chips"),
        ("&lt;b&gt;bold", "<b>bold"),
        ("<i> &amp;amp;", "<i> &"),  # ftfy leaves entities alone beside a "<"
        ("schÃ¶n", "schön"),
        ("doesnâ€™t", "doesn't"),
        ("“quoted”", '"quoted"'),
        ("ﬁsh", "fish"),
        ("a&nbsp;b", "a b"),
        ("It's, really_good!", "it's, really_good!"),
    ],
)
def test_clip(text, expected):
    assert clean(text, "clip") == expected


REFERENCE = json.loads((Path(__file__).parents[2] / "parity/data/cleaning.json").read_text())


@pytest.mark.parametrize("cleaning", ["clip", "siglip_open_clip"])
def test_cleaning_equals_that_of_open_clip(cleaning):
    """The reference is made by tests/parity/make_transforms.py."""
    assert [clean(text, cleaning) for text in REFERENCE["text"]] == REFERENCE[cleaning]
    assert len(REFERENCE["text"]) >= 15


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_text_that_skips_ftfy_equals_the_result_of_ftfy(text):
    repaired = html.unescape(html.unescape(ftfy.fix_text(text)))
    assert clean(text, "clip") == " ".join(repaired.split()).lower()


def test_ascii_lower_changes_only_ascii_capitals():
    """tf.strings.lower("...", encoding="") changes the bytes 65 to 90."""
    text = "A  Cat's\tPHOTO, ÜBER-Straße_1 ΣΑΣ İ!"
    expected = bytes(b + 32 if 65 <= b <= 90 else b for b in text.encode()).decode()
    assert clean(text, "ascii_lower") == expected == "a  cat's\tphoto, Über-straße_1 ΣΑΣ İ!"


def test_none_whitespace_and_lower():
    text = " A_Cat,\n &amp; "
    assert clean(text, "none") == text
    assert clean(text, "whitespace") == "A_Cat, &amp;"
    assert clean(text, "lower") == "a_cat, &amp;"


@given(st.text(), st.sampled_from(["whitespace", "lower", "clip", "siglip", "siglip_open_clip"]))
def test_every_cleaning_removes_runs_of_white_space(text, cleaning):
    cleaned = clean(text, cleaning)
    assert cleaned == " ".join(cleaned.split())


@given(st.text())
def test_siglip_is_idempotent(text):
    once = clean(text, "siglip")
    assert clean(once, "siglip") == clean(clean(once, "siglip"), "siglip")
    assert not set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") & set(once)


@pytest.mark.parametrize(
    "text",
    [
        "a &" + "amp;" * 60 + " b",
        "&" + "amp;#38;#x0026;AMP;" * 9 + "lt;b&" + "amp;" * 30 + "copy;",
        "&" + "amp;" * 60 + "\n<i> &" + "amp;" * 60,
        "<i> &" + "amp;" * 60 + "\n&" + "amp;" * 60,
        "&" + "amp;" * 60 + "é “x” <",
    ],
)
def test_ampersands_escaped_many_times_are_cleaned_as_before(text):
    expected = html.unescape(html.unescape(ftfy.fix_text(text)))
    assert clean(text, "clip") == " ".join(expected.split()).lower()


def test_the_time_of_cleaning_does_not_grow_with_the_square_of_the_length():
    calls = []
    with patch.object(
        ftfy, "fix_and_explain", lambda text, config: calls.append(text) or (text, 0)
    ):
        clean("&" + "amp;" * 100_000, "clip")
    assert calls == ["&amp;"]
