"""Makes `python -m fastmlp` the command line."""

import sys

from fastmlp.cli.main import main

sys.exit(main())
