"""``python -m ewnprune``."""

import sys

from ewnprune.cli import main

sys.exit(main())
