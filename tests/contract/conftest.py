"""Failures in the shared contracts are told like those in the tests themselves."""

import pytest

pytest.register_assert_rewrite("tests.contract.providers")
