"""A tiny real guest for tests: a distribution's kernel, busybox and one script. `tests/tiny_vm.py` starts it.

`make.py` gets and keeps it in `build/tiny-guest/`; `init.sh` is all that runs in it.
"""
