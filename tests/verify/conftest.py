from tests.interop.conftest import foreign, trunks  # noqa: F401  fixtures
