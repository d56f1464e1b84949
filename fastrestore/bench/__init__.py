"""fastrestore bench: kernels, networks, pictures and start-up beside their peers, each answer proved before its time.

A case is one measurement: a suite's name and options (cases.py).  It runs in a process of its own (process.py), where
its contestants (peers.py) answer the same question (networks.py, operators.py), are compared with float64, and take
turns (timing.py).  Its result is one JSON document, which tables, report, history and README read.
"""
