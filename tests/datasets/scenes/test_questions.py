"""The text of a question does not tell its answer."""

import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest

from tests.datasets.scenes.samples import OBJECTS, write_objects
from vljax.data.sources import JsonLines
from vljax.datasets.scenes import content, questions
from vljax.datasets.scenes.cutouts import collect

SCENES = 1200


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    records = JsonLines(write_objects(tmp_path_factory.mktemp("objects"))).open()
    return collect(records, None, longest=80, shortest=12)


@pytest.fixture(scope="module")
def scenes(things):
    return [content.draw(np.random.default_rng(i), things, 5, 96) for i in range(SCENES)]


def asked(scenes, rates):
    """Kind -> pairs of text and answer."""
    pairs = defaultdict(list)
    for i, scene in enumerate(scenes):
        for question in questions.ask(np.random.default_rng([1, i]), scene, rates):
            pairs[question.kind].append((question.text, question.answer))
    return pairs


def excess(pairs, chance):
    """Accuracy of the best guess from the text alone above chance, in standard errors.

    The most frequent answer to each text in one half of the questions is the guess in the other.
    """
    half = len(pairs) // 2
    seen = defaultdict(Counter)
    for text, answer in pairs[:half]:
        seen[text][answer] += 1
    tested = [pair for pair in pairs[half:] if pair[0] in seen]
    right = sum(seen[text].most_common(1)[0][0] == answer for text, answer in tested)
    return (right / len(tested) - chance) / (chance * (1 - chance) / len(tested)) ** 0.5


def balanced_rates(things):
    return questions.QuestionRates.balanced(content.repeat_odds(5), content.colour_odds(things))


def test_the_best_guess_from_the_text_alone_is_as_good_as_chance(things, scenes):
    pairs = asked(scenes, balanced_rates(things))
    objects = len(OBJECTS)
    answers = {  # chance, and number of different answers
        "exists": (1 / 2, 2),
        "count": (1 / 5, 5),
        "total": (1 / 5, 5),
        "what": (1 / objects, objects),
        "what_beside": (1 / (objects - 1), objects),
        "colour": (1 / 5, 5),
        "is_colour": (1 / 2, 2),
        "side": (1 / 2, 4),  # the text names two of the four
        "is_beside": (1 / 2, 2),
        "direction": (1 / 4, 4),
    }
    assert pairs.keys() == answers.keys()
    for kind, (chance, count) in answers.items():
        assert len({answer for _, answer in pairs[kind]}) == count, kind
        assert excess(pairs[kind], chance) < 3.5, kind


def test_unbalanced_questions_are_guessed_above_chance(things, scenes):
    """Without balancing, counts and colours are guessed right more often than by chance."""
    always = questions.QuestionRates(
        (1.0,) * 5, dict.fromkeys(("red", "green", "blue", "yellow", "white"), 1.0)
    )
    pairs = asked(scenes, always)
    assert excess(pairs["count"], 1 / 5) > 10
    assert excess(pairs["colour"], 1 / 5) > 4


def test_odds_equal_the_frequencies_in_scenes(things, scenes):
    found = Counter(scene.repeats for scene in scenes)
    for repeats, probability in enumerate(content.repeat_odds(5), 1):
        error = (probability * (1 - probability) / SCENES) ** 0.5
        assert abs(found[repeats] / SCENES - probability) < 4 * error
    colours = Counter(colour for colour, *_ in OBJECTS.values())
    del colours[None]
    odds = {colour: count / len(OBJECTS) for colour, count in colours.items()}
    assert content.colour_odds(things) == pytest.approx(odds)


def test_rare_colours_are_not_asked_about():
    rates = questions.QuestionRates.balanced([1.0], {"red": 0.5, "pink": 0.002, "blue": 0.1})
    assert rates.colours == pytest.approx({"red": 0.2, "blue": 1.0})


def test_things_in_a_scene_have_distinct_names(things):
    by_name = {thing.name: thing for thing in things}
    owl, frog = by_name["owl"], by_name["frog"]
    assert not owl.may_be(frog)
    assert owl.may_be(dataclasses.replace(frog, tags=frozenset({"owl"})))
    assert owl.may_be(dataclasses.replace(frog, name="brown owl", words=frozenset({"owl"})))
    alike = [dataclasses.replace(thing, words=frozenset({"animal"})) for thing in things]
    with pytest.raises(content.UserError, match="no 2 things are told apart by their names"):
        content.draw_things(np.random.default_rng(0), alike, 2)
