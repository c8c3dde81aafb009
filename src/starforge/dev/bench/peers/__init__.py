"""Other queues, side by side with ours: each in an environment of its own, driven by a program of its own."""
