"""Record a module in one framework's environment, and compare the recording elsewhere.

`record` needs numpy, safetensors and the framework of its module alone. Names are imported when they are first used.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from parity_tests.harness.recordings.comparing.compare import compare_recordings as compare_recordings
    from parity_tests.harness.recordings.recorder import record as record
    from parity_tests.harness.recordings.recording import Recording as Recording

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"recorder": ["record"], "recording": ["Recording"], "comparing.compare": ["compare_recordings"]},
)
