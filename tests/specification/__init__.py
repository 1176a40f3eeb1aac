"""Show that the oracle keeps the contracts that it specifies, and that the loader equals it."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("specification.cases")
