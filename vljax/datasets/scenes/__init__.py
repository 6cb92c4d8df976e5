"""Composed scenes: pictures of objects at random positions, with boxes, masks and questions."""
