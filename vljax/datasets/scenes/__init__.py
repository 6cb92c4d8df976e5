"""Composed scenes: real pictures of objects in made-up places, with all that is known of them."""
