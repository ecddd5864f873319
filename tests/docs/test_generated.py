"""Pages made from the code are up to date."""

from __future__ import annotations

import pytest

from tests.docs.generated import PAGES, ROOT


@pytest.mark.parametrize("path", PAGES)
def test_page_says_what_the_code_does(path: str) -> None:
    """The committed page is what the generator makes of the code now."""
    assert (ROOT / path).read_text() == PAGES[path](), "run `make docs`"
