"""`python -m epp`: the same as the command `epp`."""

import sys

from epp.cli import main

sys.exit(main())
