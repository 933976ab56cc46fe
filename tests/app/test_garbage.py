"""A server's collections of garbage pass by what stays."""

from __future__ import annotations

import gc

from app import garbage


def test_what_lives_when_a_server_has_begun_is_spared_once():
    garbage.spare_what_stays.cache_clear()
    gc.unfreeze()
    garbage.spare_what_stays()
    spared = gc.get_freeze_count()
    assert spared > 10_000
    later = [[] for _ in range(100)]
    garbage.spare_what_stays()
    assert gc.get_freeze_count() <= spared  # what comes later may be garbage
    assert any(each is later for each in gc.get_objects())
