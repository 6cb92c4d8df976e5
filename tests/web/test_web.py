"""Pages escape all texts and load nothing from elsewhere."""

import re
from html.parser import HTMLParser

import numpy as np

from vljax.charts import Bars, bar_chart, svg
from vljax.web import element, page, picture


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def parsed(html):
    parser = _Tags()
    parser.feed(html)
    return parser


def test_texts_and_attributes_cannot_become_markup():
    hostile = "\"><script>alert('1')</script>&amp;"
    found = parsed(page(hostile, element("p", hostile, id=hostile), hostile))
    assert "script" not in [tag for tag, _ in found.tags]
    assert dict(found.tags)["p"] == {"id": hostile}
    assert "".join(found.texts).count(hostile) == 3


def test_lone_surrogates_are_replaced():
    assert page("x", "a\ud83d\0b").encode()


def test_a_page_names_no_other_file():
    chart = svg(bar_chart(Bars([1, 0, 4], ["a", "b", "c"], [(0.5, "a")])), "counts")
    html = page("x", picture(np.zeros((4, 6, 3), np.uint8), "black"), chart)
    assert not re.search(r"https?:|//|url\(|@import", html.replace("data:image/webp;base64,", ""))
    policies = [a for tag, a in parsed(html).tags if tag == "meta" and "http-equiv" in a]
    assert policies[0]["content"].startswith("default-src 'none'; img-src data:")
