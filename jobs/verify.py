"""`sdbatch verify` as a job: ray job submit --working-dir . -- python jobs/verify.py OUT [options]"""

import sys

from sdbatch.cli import console

if __name__ == "__main__":
    console(["verify", *sys.argv[1:]])
