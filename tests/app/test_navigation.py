"""A page is a folder and a row: each row leads to something that draws, and no folder is left out."""

from __future__ import annotations

import importlib

from app.navigation import ADDRESSES, PAGES
from tests.app.conftest import ROOT


def test_every_row_leads_to_a_page():
    for row in PAGES:
        assert callable(importlib.import_module(row.module).render), row


def test_every_folder_has_a_row():
    folders = {path.parent.name for path in (ROOT / "app" / "views").glob("*/page.py")}
    assert sorted(folders) == sorted(row.module.split(".")[2] for row in PAGES)
    assert len(set(ADDRESSES)) == len({row.title for row in PAGES}) == len(PAGES)


def test_the_first_page_is_where_the_server_s_own_address_leads():
    assert ADDRESSES[0] == "overview"
