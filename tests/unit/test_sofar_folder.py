"""The folder of a report is replaced as a whole, whoever else is at it."""

from __future__ import annotations

import os
import time

import pytest

from plmscale.errors import PlmscaleError
from plmscale.sofar.folder import replaced


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "new/so-far"
    for text in ("one", "two"):
        with replaced(folder, "mark") as made:
            (made / "mark").write_text(text)
            (made / text).touch()
    assert {path.name for path in folder.iterdir()} == {"mark", "two"}
    with pytest.raises(KeyboardInterrupt), replaced(folder, "mark") as made:
        (made / "mark").write_text("three")
        raise KeyboardInterrupt
    assert (folder / "mark").read_text() == "two"
    assert list(folder.parent.iterdir()) == [folder]


def test_somebody_s_own_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(PlmscaleError, match="holds other files"), replaced(tmp_path, "mark"):
        pass
    assert (tmp_path / "mine").exists()


def test_two_at_once_leave_one_whole_folder(tmp_path):
    folder = tmp_path / "so-far"
    with replaced(folder, "mark") as first:
        (first / "mark").write_text("first")
        with replaced(folder, "mark") as second:
            (second / "mark").write_text("second")
    assert (folder / "mark").read_text() == "first"
    assert list(tmp_path.iterdir()) == [folder]


def test_only_old_leavings_of_killed_commands_are_removed(tmp_path):
    old, new = tmp_path / ".so-far.a.tmp", tmp_path / ".so-far.b.tmp"
    for path in (old, new):
        (path / "x").mkdir(parents=True)
    os.utime(old, (time.time() - 1e6,) * 2)
    with replaced(tmp_path / "so-far", "mark") as made:
        (made / "mark").touch()
    assert not old.exists() and new.exists()
