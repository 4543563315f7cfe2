"""Plans a run before a model is loaded.

planning.py     inputs, columns, shards, finished work   forecast.py    adds up the rows of a whole table
row_judge.py    why a row can't be made, or its work
destination.py  where an output may go                   capacity.py    a worker's needs and a cluster's resources
speed_test.py   measures a model on this machine for a few seconds
"""
