"""`sdbatch verify` as a job: ray job submit --working-dir . -- python jobs/verify.py OUT [options]"""

import sys

from sdbatch.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
