"""`sdbatch generate` as a job: ray job submit --working-dir . -- python jobs/generate.py PROMPTS OUT [options]"""

import sys

from sdbatch.cli import console

if __name__ == "__main__":
    console(["generate", *sys.argv[1:]])
