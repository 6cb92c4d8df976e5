"""A small public-domain set of captioned clip art, with the builder that made it."""
