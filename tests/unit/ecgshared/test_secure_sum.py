"""The secure sum's numbers and cryptography against plain sums, and against those who would bare one site's."""

import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgshared.errors import PrivacyError
from ecgshared.privacy import shamir
from ecgshared.privacy.fixed_point import EXACT, SHORT
from ecgshared.privacy.secure_sum import (
    PublicKeys,
    Reveal,
    add_mask,
    agreed,
    commitment,
    context,
    hide,
    joined_counts,
    loaded,
    new_key,
    open_sum,
    public_key,
    seal,
    share_secrets,
    unseal,
)
from ecgshared.study.secure import least_threshold


class Group:
    """Members of one sum, as honest as the tests let them be."""

    def __init__(self, n: int, threshold: int | None = None) -> None:
        self.n, self.threshold = n, threshold or least_threshold(n)
        self.use = context("test", n)
        self.private = [new_key() for _ in range(n)]
        self.seed = [secrets.token_bytes(32) for _ in range(n)]
        self.published = PublicKeys(
            self.use,
            {i: public_key(key) for i, key in enumerate(self.private)},
            {i: commitment(seed) for i, seed in enumerate(self.seed)},
        )
        self.shares = [share_secrets(self.private[i], self.seed[i], self.threshold, n) for i in range(n)]

    def hidden(self, words, members):
        return {i: hide(words[i], i, self.private[i], self.seed[i], self.published) for i in members}

    def reveal(self, holder, sent):
        gone = set(range(self.n)) - set(sent)
        return Reveal(
            {u: self.shares[u][holder][1] for u in sent},
            {u: self.shares[u][holder][0] for u in gone},
        )

    def opened(self, words, sent, revealing=None):
        reveals = {v: self.reveal(v, sent) for v in (sent if revealing is None else revealing)}
        return open_sum(self.hidden(words, sent), reveals, self.published, self.threshold)


def words_of(values, n):
    return [EXACT.encode(row, n) for row in values]


class TestFixedPoint:
    @given(
        st.integers(1, 6).flatmap(
            lambda n: st.lists(
                st.lists(st.floats(-1e12, 1e12, allow_nan=False), min_size=3, max_size=3), min_size=n, max_size=n
            )
        )
    )
    def test_the_decoded_sum_is_the_sum(self, rows):
        total = np.sum([EXACT.encode(np.array(row), len(rows)) for row in rows], axis=0, dtype=np.uint64)
        exact = np.array([sum(column) for column in zip(*rows, strict=True)])
        scale = np.abs(np.array(rows)).max() + 1
        np.testing.assert_allclose(EXACT.decode(total), exact, rtol=0, atol=len(rows) * (2**-50 + scale * 2**-52))

    def test_small_and_large_numbers_of_one_sum_keep_their_digits(self):
        rows = np.array([[3.25e-12, 5e10], [1.5e-9, -5e10], [-4e-13, 0.1]])
        total = np.sum(words_of(rows, 3), axis=0, dtype=np.uint64)
        np.testing.assert_allclose(EXACT.decode(total), [1.50285e-9, 0.1], rtol=0, atol=2 * 2**-50)

    def test_a_sum_past_two_to_the_31_is_right(self):
        rows = np.full((4, 2), 2.0**31 - 1)
        total = np.sum(words_of(rows, 4), axis=0, dtype=np.uint64)
        assert EXACT.decode(total).tolist() == [2.0**33 - 4] * 2
        short = np.sum([SHORT.encode(np.array([2.0**19]), 4) for _ in range(4)], axis=0, dtype=np.uint64)
        assert SHORT.decode(short).tolist() == [2.0**21]

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**61, -(2.0**61)])
    @pytest.mark.parametrize("form", [EXACT, SHORT])
    def test_what_could_overflow_is_refused(self, form, value):
        with pytest.raises(PrivacyError, match="does not fit"):
            form.encode(np.array([0.0, value]), 4)

    def test_the_largest_of_all_sites_together_still_fits(self):
        for form in (EXACT, SHORT):
            largest = form.largest(7)
            for sign in (1, -1):
                total = np.sum([form.encode(np.array([sign * largest]), 7) for _ in range(7)], axis=0, dtype=np.uint64)
                np.testing.assert_allclose(form.decode(total), sign * 7 * largest, rtol=1e-15)


class TestShamir:
    def test_the_modulus_is_a_prime(self):
        # Lucas and Lehmer: 2^p - 1 is prime where s = 4, s <- s^2 - 2, p - 2 times, ends at 0.
        s = 4
        for _ in range(519):
            s = (s * s - 2) % shamir.PRIME
        assert s == 0

    @given(st.integers(0, 2**256 - 1), st.integers(1, 9), st.data())
    @settings(max_examples=40, deadline=None)
    def test_any_threshold_shares_give_the_secret_back(self, secret, holders, data):
        threshold = data.draw(st.integers(1, holders))
        shares = shamir.split(secret, threshold, holders)
        chosen = data.draw(st.permutations(range(1, holders + 1)))[:threshold]
        assert shamir.join({x: shares[x - 1] for x in chosen}, threshold) == secret

    def test_one_share_too_few_gives_something_else_or_nothing(self):
        shares = shamir.split(42, 3, 5)
        with pytest.raises(PrivacyError, match="too few"):
            shamir.join({1: shares[0], 2: shares[1]}, 3)
        assert shamir.join({1: shares[0], 2: shares[1]}, 2) != 42

    @pytest.mark.parametrize("secret", [-1, shamir.PRIME, shamir.PRIME + 5])
    def test_a_secret_outside_the_field_is_refused(self, secret):
        with pytest.raises(PrivacyError, match="no element"):
            shamir.split(secret, 2, 3)

    @given(st.lists(st.lists(st.integers(0, 2**48 - 1), min_size=19, max_size=19), min_size=3, max_size=7))
    @settings(max_examples=25, deadline=None)
    def test_sums_of_shared_counts(self, rows):
        n = len(rows)
        threshold = least_threshold(n)
        dealt = [[shamir.split(e, threshold, n) for e in shamir.pack(row)] for row in rows]
        summed = {
            h: [sum(e[h] for e in column) % shamir.PRIME for column in zip(*dealt, strict=True)] for h in range(n)
        }
        assert joined_counts(summed, threshold, 19) == [sum(column) for column in zip(*rows, strict=True)]

    def test_a_count_that_could_run_over_is_refused(self):
        with pytest.raises(PrivacyError, match="cell"):
            shamir.pack([2**48])


class TestSum:
    @pytest.mark.parametrize("n", [3, 4, 5, 10])
    def test_bit_equal_to_the_plain_sum(self, n):
        words = words_of(np.random.default_rng(n).normal(size=(n, 7)) * 1e3, n)
        assert np.array_equal(Group(n).opened(words, range(n)), np.sum(words, axis=0, dtype=np.uint64))

    @pytest.mark.parametrize(("n", "gone"), [(4, [3]), (4, [0]), (5, [1, 2]), (10, [0, 4, 9]), (10, [6, 7, 8, 9])])
    def test_without_those_that_dropped_out(self, n, gone):
        words = words_of(np.random.default_rng(n).normal(size=(n, 5)), n)
        sent = [i for i in range(n) if i not in gone]
        assert np.array_equal(Group(n).opened(words, sent), np.sum([words[i] for i in sent], axis=0, dtype=np.uint64))

    @given(st.integers(3, 7), st.integers(0, 2**32), st.integers(0, 40))
    @settings(max_examples=20, deadline=None)
    def test_any_words_any_dropouts(self, n, seed, size):
        draw = np.random.default_rng(seed)
        words = [draw.integers(0, 2**64, size, dtype=np.uint64) for _ in range(n)]
        most = n - least_threshold(n)
        sent = sorted(draw.choice(n, n - int(draw.integers(0, most + 1)), replace=False).tolist())
        revealing = sorted(draw.choice(sent, least_threshold(n), replace=False).tolist())
        expected = np.sum([words[i] for i in sent], axis=0, dtype=np.uint64)
        assert np.array_equal(Group(n).opened(words, sent, revealing), expected)

    def test_words_longer_than_one_chunk_of_the_mask(self):
        words = [np.arange(600_001, dtype=np.uint64) * np.uint64(i + 1) for i in range(3)]
        assert np.array_equal(Group(3).opened(words, range(3)), np.arange(600_001, dtype=np.uint64) * np.uint64(6))

    def test_two_sites_alone_open_nothing(self):
        group = Group(4)
        words = words_of(np.ones((4, 2)), 4)
        with pytest.raises(PrivacyError, match="too few sites"):
            group.opened(words, [0, 1])
        assert least_threshold(3) == 3
        assert least_threshold(4) == 3
        assert least_threshold(10) == 6

    def test_too_few_reveals_open_nothing(self):
        with pytest.raises(PrivacyError, match="too few shares"):
            Group(5).opened(words_of(np.ones((5, 2)), 5), range(5), revealing=[0, 1])

    def test_a_wrong_share_is_noticed(self):
        group = Group(4)
        words = words_of(np.ones((4, 2)), 4)
        reveals = {v: group.reveal(v, [0, 1, 2]) for v in (0, 1, 2)}
        wrong = Reveal({**reveals[1].seeds, 2: (reveals[1].seeds[2] + 1) % shamir.PRIME}, reveals[1].keys)
        with pytest.raises(PrivacyError, match=r"seed|secret"):
            open_sum(group.hidden(words, [0, 1, 2]), reveals | {1: wrong}, group.published, 3)
        wrong = Reveal(reveals[1].seeds, {3: (reveals[1].keys[3] + 1) % shamir.PRIME})
        with pytest.raises(PrivacyError, match=r"key|secret"):
            open_sum(group.hidden(words, [0, 1, 2]), reveals | {1: wrong}, group.published, 3)

    def test_hidden_words_are_spread_evenly_whatever_was_hidden(self):
        group = Group(3)
        hidden = group.hidden([np.zeros(4096, dtype=np.uint64)] * 3, range(3))
        for words in hidden.values():
            ones = np.unpackbits(words.view(np.uint8)).mean()
            assert abs(ones - 0.5) < 0.006
            assert len(np.unique(words)) == 4096
        pair = hidden[0] + hidden[1]
        assert len(np.unique(pair)) == 4096

    def test_a_swapped_key_of_low_order_is_refused(self):
        with pytest.raises(PrivacyError, match="no secret"):
            agreed(loaded(new_key()), bytes(32), b"use")

    def test_masks_of_another_use_are_other_masks(self):
        private, other = new_key(), public_key(new_key())
        mine = loaded(private)
        assert agreed(mine, other, context("a", 1)) != agreed(mine, other, context("a", 2))
        assert context("a", "bc") != context("ab", "c")

    def test_adding_and_taking_off_a_mask(self):
        words = np.arange(10, dtype=np.uint64)
        seed = secrets.token_bytes(32)
        add_mask(words, seed)
        assert not np.array_equal(words, np.arange(10, dtype=np.uint64))
        add_mask(words, seed, subtract=True)
        assert np.array_equal(words, np.arange(10, dtype=np.uint64))

    def test_a_changed_envelope_is_refused(self):
        key = secrets.token_bytes(32)
        sealed = seal(key, b"share", b"for b")
        assert unseal(key, sealed, b"for b") == b"share"
        for wrong in (sealed[:-1] + bytes([sealed[-1] ^ 1]), b"", sealed[:5]):
            with pytest.raises(PrivacyError, match="envelope"):
                unseal(key, wrong, b"for b")
        with pytest.raises(PrivacyError, match="envelope"):
            unseal(key, sealed, b"for c")
