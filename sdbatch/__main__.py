"""`python -m sdbatch` is the `sdbatch` command."""

import sys

from sdbatch.cli import main

sys.exit(main())
