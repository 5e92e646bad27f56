"""What takes space in a container, to the byte, and why; and what two places of one container differ in."""
