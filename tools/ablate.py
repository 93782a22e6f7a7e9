#!/usr/bin/env python
"""Train variants of a config and compare them; see fpt_d2/commands/ablate.py, or --help."""

import sys

from fpt_d2.commands.ablate import main

if __name__ == "__main__":
    sys.exit(main())
