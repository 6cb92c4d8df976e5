import pytest
from hypothesis import given
from hypothesis import strategies as st

from vljax.data.cleaning import clean


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


# What `_clean_lower` of open_clip's src/open_clip/tokenizer.py returns.
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


def test_the_plain_ones_differ_in_what_they_touch():
    text = " A_Cat,\n &amp; "
    assert clean(text, "none") == text
    assert clean(text, "whitespace") == "A_Cat, &amp;"
    assert clean(text, "lower") == "a_cat, &amp;"


@given(st.text(), st.sampled_from(["whitespace", "lower", "clip", "siglip"]))
def test_no_cleaning_leaves_runs_of_white_space(text, cleaning):
    cleaned = clean(text, cleaning)
    assert cleaned == " ".join(cleaned.split())


@given(st.text())
def test_siglip_is_idempotent(text):
    once = clean(text, "siglip")
    assert clean(once, "siglip") == clean(clean(once, "siglip"), "siglip")
    assert not set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") & set(once)
