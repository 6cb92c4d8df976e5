"""The stamps of Tux Paint: the builder that downloads them, and the source that reads them."""
