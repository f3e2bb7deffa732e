from .harness.findings import Finding as Finding
from .harness.findings import Report as Report
from .harness.modules.compare import ParityError as ParityError
from .harness.modules.compare import assert_parity as assert_parity
from .harness.modules.compare import compare_modules as compare_modules
from .harness.modules.inputs import Inputs as Inputs
