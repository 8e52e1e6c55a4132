"""``python -m tos_guard.cli``."""

import sys

from tos_guard.cli import main

sys.exit(main())
