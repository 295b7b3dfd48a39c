"""Engines that pythia-cpu is compared with, and random models in Pythia's shapes for all of them.

Each engine is a module with two functions, ``prepare`` (make its model from a Hugging Face checkpoint) and ``measure``,
run as a process of its own (worker.py): engines keep threads spinning and allocators full, and may need another Python.
"""
