"""Every command over a folder of models, judged by what is not ours: see `python -m tools.robustness --help`."""
