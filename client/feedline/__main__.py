"""`python -m feedline`: the same as the command `feedline`."""

import sys

from feedline.cli import main

sys.exit(main())
