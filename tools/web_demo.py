#!/usr/bin/env python
"""A page in the browser to play with a trained model; see fpt_d2/commands/web_demo.py, or --help."""

import sys

from fpt_d2.commands.web_demo import main

if __name__ == "__main__":
    sys.exit(main())
