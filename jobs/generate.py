"""`sdbatch generate` as a job: ray job submit --working-dir . -- python jobs/generate.py PROMPTS OUT [options]"""

import sys

from sdbatch.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
