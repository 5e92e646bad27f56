"""A running VM's disks onto the splitter's exports, without a reboot (docs/adopting.md).

checks.py, seen.py, turn.py, words.py, conversation.py (PURE): what is there, what stands against it, what
comes next; link.py, relay.py, target.py: QEMU, the connection in between, the agent; work.py, cutover.py,
undoing.py: what is done, in which order.
"""
