"""`sdbatch bench` as a job, on a GPU of the cluster: ray job submit --entrypoint-num-gpus 1 --working-dir . -- python
jobs/benchmark.py [options]"""

import sys

from sdbatch.cli import console

if __name__ == "__main__":
    console(["bench", *sys.argv[1:]])
