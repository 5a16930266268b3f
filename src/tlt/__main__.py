"""``python -m tlt``, and ``torchrun --module tlt train``."""

import sys

from tlt.cli.main import main

sys.exit(main())
