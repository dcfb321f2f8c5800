"""What every saved benchmark run says about itself."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    from logstore.records.kernel import KERNEL_NAME

    machine_info["logstore_kernel"] = KERNEL_NAME
