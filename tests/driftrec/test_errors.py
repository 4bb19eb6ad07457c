"""Errors say what, where and what to do, and cross process borders whole."""

import pickle

import pytest

from driftrec.errors import (
    MEANING,
    BadImage,
    DriftRecError,
    Failed,
    InvalidInput,
    Reason,
    StorageFull,
    TrainingDiverged,
)

ERRORS = [
    InvalidInput("no such folder: x"),
    BadImage(Reason.truncated, "half a JPEG"),
    StorageFull("disk full at out/"),
    TrainingDiverged(7, float("inf"), "run/checkpoint-5"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert isinstance(copy, DriftRecError) != isinstance(copy, BadImage)  # a bad image ends no run


@pytest.mark.parametrize("kind", [DriftRecError, InvalidInput, StorageFull, lambda x: TrainingDiverged(1, 1.0, x)])
def test_no_name_in_a_message_plays_with_the_terminal(kind):
    told = str(kind("a\x1b[2J\u202e\udcff.png"))
    assert "a\\x1b[2J\\u202e\\udcff.png" in told
    assert told.isprintable()


def test_a_bad_image_reads_as_reason_and_detail():
    assert str(BadImage(Reason.empty, "0 bytes")) == "empty: 0 bytes"


def test_divergence_names_step_loss_and_the_way_back():
    words = str(TrainingDiverged(7, float("nan"), "run/checkpoint-5"))
    assert "step 7" in words
    assert "nan" in words
    assert "run/checkpoint-5" in words
    assert "no checkpoint" in str(TrainingDiverged(7, 1e9, None))


def test_reasons_are_the_strings_of_the_ledger():
    assert all(reason == reason.name == str(reason) for reason in Reason)
    assert Failed("a.jpg", "decode", Reason("corrupt"), "").reason is Reason.corrupt
    assert all(pickle.loads(pickle.dumps(reason)) is reason for reason in Reason)


def test_every_reason_has_a_meaning():
    assert set(MEANING) == set(Reason)
