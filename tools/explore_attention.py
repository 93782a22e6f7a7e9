#!/usr/bin/env python
"""Draw what a pixel or an object gathers through FPT; see fpt_d2/commands/explore.py, or --help."""

import sys

from fpt_d2.commands.explore import main

if __name__ == "__main__":
    sys.exit(main())
