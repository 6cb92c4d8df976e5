"""`vljax verify`: the published numbers of released models, measured again."""
