"""Whose data a fit is of while sites drop out, are withheld, and come back."""

import pytest

from ecgshared.errors import RunError
from server.pooling.members import Members


def fitted(sites, answers, members=None):
    """Fit by asking once a time; ``answers`` says, call by call, which sites are lost and which withhold."""
    members, asked = members or Members(sites, "age"), []

    def once():
        while True:
            lost, withheld = answers[len(asked)] if len(asked) < len(answers) else ("", "")
            asked.append("".join(members.now))
            sums = members.all_of({s: None if s in withheld else s for s in members.now if s not in lost})
            if len(asked) > len(answers):
                return "".join(sums)

    return members.fit(once), asked


@pytest.mark.parametrize(
    ("answers", "of", "asked"),
    [
        ([], "abc", ["abc"]),
        ([("b", "")], "ac", ["abc", "ac"]),
        ([("", "b")], "ac", ["abc", "ac"]),
        ([("b", ""), ("", "a")], "bc", ["abc", "ac", "bc"]),
        ([("b", ""), ("c", ""), ("", "")], "ab", ["abc", "ac", "ab", "ab"]),
        ([("b", ""), ("", "a"), ("b", "")], "c", ["abc", "ac", "bc", "c"]),
        ([("abc", "")], "abc", ["abc", "abc"]),
        ([("", "b"), ("ac", "")], "ac", ["abc", "ac", "ac"]),
    ],
    ids=["all", "lost", "withheld", "back", "another lost", "lost twice", "all lost", "withheld stays out"],
)
def test_whose_sums_are_added(answers, of, asked):
    assert fitted("abc", answers) == (of, asked)


def test_nobody_left_is_an_error_that_names_the_fit():
    for answers in ([("", "ab")], [("ab", ""), ("ab", "")], [("a", "b"), ("a", "")]):
        with pytest.raises(RunError, match=r"no site may give[\s\S]*age"):
            fitted("ab", answers)
