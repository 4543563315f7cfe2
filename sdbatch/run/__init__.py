"""Runs a plan on Ray: a pool of workers makes shards and reports them.

pipeline.py     a run from plan to report                  graph.py        the Ray Data graph
execution.py    runs the graph in a thread                 worker.py       one actor: makes and writes shards
engine_loop.py  feeds an engine from several shards        coordinator.py  tracks shards and workers
opening.py      prepares OUT                               cluster.py      connects to Ray or starts it
metrics.py      Prometheus                                 report.py       the totals of a run
faults/         what happens when workers fail
"""
