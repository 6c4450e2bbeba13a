"""Roles: a keyed hash of the patient, in the fractions of the pool."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_pools import KEY

from medssl.core.errors import PoolError
from medssl.core.types import Role
from medssl.pool.key import Key
from medssl.pool.pool import Pool, Roles

OTHER = Key(b"o" * 32)


@pytest.mark.parametrize("fractions", [(0.7, 0.1, 0.3), (1.2, -0.1, -0.1), (0, 0, 0), (float("nan"), 0.5, 0.5)])
def test_roles_that_are_no_fractions_of_one_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(PoolError, match="expected fractions that sum to 1"):
        Roles(*fractions)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 2**20))
def test_roles_have_their_fractions_and_depend_on_patient_and_key_alone(low: int, high: int, salt: int) -> None:
    cuts = sorted((low, high))
    roles = Roles(cuts[0] / 100, (cuts[1] - cuts[0]) / 100, (100 - cuts[1]) / 100)
    drawn = [roles.at(KEY.uniform("role", f"{salt}-{patient}")) for patient in range(600)]
    for role, fraction in ((Role.DEV, roles.dev), (Role.VAL, roles.val), (Role.TEST, roles.test)):
        assert abs(drawn.count(role) / 600 - fraction) <= 5.5 * (fraction * (1 - fraction) / 600) ** 0.5 + 1e-9


def test_a_patient_keeps_the_role_in_every_pool_of_the_same_key(tmp_path: Path) -> None:
    pool, twin = Pool.create(tmp_path / "pool", KEY), Pool.create(tmp_path / "twin", KEY)
    patients = [KEY.hmac(str(i)) for i in range(2000)]
    roles = [pool.role_of(patient, KEY) for patient in patients]
    assert roles == [twin.role_of(patient, KEY) for patient in patients]
    stranger = Pool.create(tmp_path / "stranger", OTHER)
    assert roles != [stranger.role_of(patient, OTHER) for patient in patients]
    shares = [roles.count(role) / len(roles) for role in Role]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.045)


def test_the_roles_of_a_pool_are_those_it_was_made_with(tmp_path: Path) -> None:
    Pool.create(tmp_path / "pool", KEY, Roles(0, 0.5, 0.5))
    roles = {Pool.open(tmp_path / "pool").role_of(str(i), KEY) for i in range(100)}
    assert roles == {Role.VAL, Role.TEST}
