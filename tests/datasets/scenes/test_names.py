import pytest

from vljax.datasets.scenes import names


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("A paw print.", "paw print"),
        ("An apple.", "apple"),
        ("Cup of tea", "cup of tea"),
        ("Apple Core", "apple core"),
        ("red high-heeled shoe", "red high-heeled shoe"),
        ("T-shirt", "t-shirt"),
        ("hourglass", "hourglass"),
        ("bus", "bus"),
        ("2 dead frogs", None),
        ("two joined notes", None),
        ("Grapes", None),
        ("Some blueberries.", None),
        ("row of women", "row of women"),
        ("women", None),
        ("Bread", None),
        ("slate and apple", None),
        ("a man in a suit", None),
        ("The letter A.", None),
        ("map of Poland", None),
        ("Fire! Fire!", None),
        ("one two three four", None),
        ("Ein Pfotenabdruck und mehr", None),
        ("", None),
        ("a", None),
        ("folder closed", "closed folder"),
        ("phone handset gray", "gray phone handset"),
        ("simple orange", "simple orange"),
        ("woman police", None),
        ("bacon", None),
        ("thumbs up", None),
        ("man driving car", None),
    ],
)
def test_the_name_of_an_object_is_found_in_its_caption(caption, name):
    assert names.object_name(caption) == name


@pytest.mark.parametrize(
    ("name", "one", "many"),
    [
        ("apple", "an apple", "apples"),
        ("cup of tea", "a cup of tea", "cups of tea"),
        ("cherry", "a cherry", "cherries"),
        ("toy", "a toy", "toys"),
        ("box", "a box", "boxes"),
        ("hourglass", "an hourglass", "hourglasses"),
        ("unicorn", "a unicorn", "unicorns"),
        ("open umbrella", "an open umbrella", "open umbrellas"),
        ("kitchen knife", "a kitchen knife", "kitchen knives"),
        ("loaf of bread", "a loaf of bread", "loaves of bread"),
        ("snowman", "a snowman", "snowmen"),
        ("goose", "a goose", "geese"),
        ("mongoose", "a mongoose", "mongooses"),
        ("computer mouse", "a computer mouse", "computer mice"),
        ("white sheep", "a white sheep", "white sheep"),
        ("potato", "a potato", "potatoes"),
        ("piano", "a piano", "pianos"),
        ("fox", "a fox", "foxes"),
        ("ox", "an ox", "oxen"),
        ("woman doctor", "a woman doctor", "women doctors"),
        ("woman eye", "a woman eye", "woman eyes"),
        ("target with arrow", "a target with arrow", "targets with arrow"),
    ],
)
def test_names_have_articles_and_plurals(name, one, many):
    assert names.with_article(name) == one
    assert names.plural(name) == many


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("paper clip", "paperclip", True),
        ("note with paperclip", "blue paper clip", True),
        ("volley-ball", "volley ball", True),
        ("t-shirt", "tshirt", True),
        ("cog", "gray gear", True),
        ("gull", "seagull", True),
        ("red car", "red fedora", False),
        ("apple", "pineapple", False),
    ],
)
def test_names_of_one_thing_share_a_key_word(one, other, shared):
    assert bool(names.key_words(one) & names.key_words(other)) == shared


def test_every_synonym_stands_for_a_word_that_stands_for_itself():
    for word in names._SYNONYMS.values():
        assert names._SYNONYMS[word] == word
