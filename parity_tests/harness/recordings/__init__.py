"""Record a module in one framework's environment, and compare the recording elsewhere.

`record` needs numpy, safetensors and the framework of its module alone. Names are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"recorder": ["record"], "recording": ["Recording"], "compare": ["compare_recordings"]},
)
