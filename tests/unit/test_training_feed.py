"""Batches made ahead are those made when asked for."""

import threading

import pytest

from plmscale.training.feed import Feed


@pytest.mark.parametrize("ahead", [False, True])
def test_steps_in_order_and_after_a_jump(ahead):
    made = []

    def make(step):
        made.append(step)
        return step * step

    feed = Feed(make, last=6, ahead=ahead)
    assert [feed.at(step) for step in (1, 2, 5, 6)] == [1, 4, 25, 36]
    feed.close()
    assert max(made) == 6, "nothing is made beyond the last step"


def test_the_next_batch_is_made_while_the_caller_works():
    begun = threading.Event()

    def make(step):
        if step == 2:
            begun.set()
        return step

    feed = Feed(make, last=9, ahead=True)
    assert feed.at(1) == 1
    assert begun.wait(10), "step 2 was not begun before it was asked for"
    feed.close()


def test_an_error_is_raised_by_the_step_it_belongs_to():
    def make(step):
        if step == 3:
            raise ValueError("damaged")
        return step

    feed = Feed(make, last=9, ahead=True)
    assert [feed.at(1), feed.at(2)] == [1, 2]
    with pytest.raises(ValueError, match="damaged"):
        feed.at(3)
    feed.close()
