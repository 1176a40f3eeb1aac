"""Tests that the oracle fulfills its contracts, and that the loader equals it."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("specification.cases")
