"""The record of a training session in a run's config.json: who trained from which step, where and with what."""

import datetime
import importlib.metadata
import platform
from typing import Any

from jaxvae.shared.backend import Backend, Device
from jaxvae.shared.version import FRAMEWORKS


def session_record(backend: Backend, device: Device, step: int) -> dict[str, Any]:
    """Describe a session.

    Args:
        backend: The package that trains.
        device: Its device.
        step: Steps that were taken before the session.

    Returns:
        JSON values.
    """
    devices, processes = backend.shares(), backend.processes()
    number = f", {devices} of them" if devices > 1 else ""
    number += f" in {processes} processes" if processes > 1 else ""
    return {
        "framework": backend.__name__,
        "from_step": step,
        "device": backend.device_label(device) + number,
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in ("jaxvae", "numpy", *FRAMEWORKS[backend.__name__])},
        },
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
